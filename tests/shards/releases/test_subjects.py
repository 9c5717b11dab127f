"""People from tables beside a release: joined by hand, and what is not clear is told and not known."""

import gzip

import pandas as pd
import pytest

from shards.errors import UserError
from shards.releases.subjects import SubjectTable, merged, read_subjects

IMAGES = pd.DataFrame(
    {"image_id": ["i1", "i2", "i3", "i4", "i5"], "subject_id": ["10", "10", "11", "12", "13"]}, dtype="str"
)
PATIENTS = """subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod
10,F,52,2180,2014 - 2016,
11,M,91,2150,2008 - 2010,2152-01-01
12,F,118,2130,2011 - 2013,
99,M,20,2110,2017 - 2019,
"""
METADATA = """dicom_id,subject_id,study_id,StudyDate,StudyTime
i1,10,1,21780506,213014
i2,10,2,21810506,213014
i3,11,3,21500101,1
i4,12,4,21350101,1
"""
ADMISSIONS = """subject_id,hadm_id,race
10,1,WHITE - RUSSIAN
10,2,WHITE
10,3,UNKNOWN
11,4,BLACK/AFRICAN AMERICAN
11,5,ASIAN - CHINESE
12,6,PATIENT DECLINED TO ANSWER
"""


def written(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_mimic_iv_is_joined_by_patient_and_by_the_date_of_each_study(tmp_path):
    files = [written(tmp_path / name, text) for name, text in (
        ("patients.csv.gz", PATIENTS), ("admissions.csv.gz", ADMISSIONS), ("metadata.csv.gz", METADATA),
    )]  # fmt: skip
    found = read_subjects(files[0], IMAGES, files[1], files[2])
    assert found.table["sex"].tolist() == ["F", "F", "M", "F", ""]
    # 52 in 2180: 50 in 2178 and 53 in 2181; 118 in 2130 would be 123 in 2135
    assert found.table["age"].tolist() == ["50", "53", "91", "", ""]
    # 2180 is 2014 to 2016, so 2178 is 2012 to 2014
    assert found.table["year"].tolist() == ["2013", "2016", "2009", "2017", ""]
    assert found.table["race"].tolist() == ["White", "White", "", "", ""]
    assert found.inputs == (files[0], files[2], files[1])
    said = "\n".join(found.notes)
    for words in (
        "patients.csv.gz: 1 patient is not in it of 1 image: nothing is known of them",
        "patients.csv.gz: 1 patient more, not in this dataset",
        "age is not known of 1 image: '123' (1)",
        "age of 2 images: of patients over 89, whom MIMIC-IV makes 91 at the anchor",
        "year: right to within one, as MIMIC-IV shifts",
        "race of 1 patient is not known: rows say different things, as 'Black' and 'Asian'",
    ):
        assert words in said, words
    assert "dod" not in found.table and not found.table.isin(["2178", "21780506"]).any().any()


def test_without_dates_and_admissions_it_says_what_to_give(tmp_path):
    found = read_subjects(written(tmp_path / "patients.csv", PATIENTS), IMAGES)
    assert list(found.table) == ["sex"]
    said = "\n".join(found.notes)
    assert "give --metadata mimic-cxr-2.0.0-metadata.csv.gz" in said and "give --admissions admissions.csv.gz" in said


@pytest.mark.parametrize(
    ("head", "rows", "column", "wanted"),
    [
        ("image_id,sex", ["i1,F", "i3,male", "i2,"], "sex", ["F", "", "M", "", ""]),
        ("Image Index,Patient Gender", ["i1,F", "i3,M"], "sex", ["F", "", "M", "", ""]),
        ("ImageID,PatientSex_DICOM", ["i1,F", "i3,M"], "sex", ["F", "", "M", "", ""]),
        ("dicom_id,Patient Age", ["i1,045Y", "i3,414", "i4,-3", "i5,6M"], "age", ["45", "", "", "", "0.5"]),
        ("subject_id,Race", ["10,White", "11,martian", "12,Hispanic/Latino"], "race",
         ["White", "White", "", "Hispanic", ""]),
        ("image_id,StudyDate_DICOM", ["i1,20140523", "i2,2015-01-02", "i3,21780506", "i4,2016.0"], "year",
         ["2014", "2015", "", "2016", ""]),
        ("image_id,Manufacturer,ManufacturerModelName", ["i1, Philips  Medical ,D9"], "manufacturer",
         ["Philips Medical", "", "", "", ""]),
        ("image_id,Manufacturer,ManufacturerModelName", ["i1,Philips,D9"], "model", ["D9", "", "", "", ""]),
    ],
)  # fmt: skip
def test_tables_of_ones_own(tmp_path, head, rows, column, wanted):
    found = read_subjects(written(tmp_path / "own.csv", "\n".join([head, *rows]) + "\n"), IMAGES)
    assert found.table[column].tolist() == wanted
    assert found.table.index.tolist() == [0, 1, 2, 3, 4]


def test_what_is_no_value_is_counted(tmp_path):
    text = "subject_id,sex,age\n10,F,130\n11,X,-1\n12,M,40\n10,M,20\n12,M,\n"
    found = read_subjects(written(tmp_path / "own.csv", text), IMAGES)
    assert found.table["sex"].tolist() == ["", "", "", "M", ""]
    assert found.table["age"].tolist() == ["20", "20", "", "40", ""]
    said = "\n".join(found.notes)
    for words in (
        "sex is not known of 1 row: 'X' (1)",
        "age is not known of 2 rows: '130' (1), '-1' (1)",
        "sex of 1 patient is not known: rows say different things, as 'F' and 'M'",
        "the age is of the patient and not of a study",
        "own.csv: 1 patient is not in it of 1 image",
    ):
        assert words in said, (words, said)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,sex\n1,F\n", "neither image_id nor subject_id"),
        ("image_id,height\ni1,3\n", "none of its columns is one of sex, age, race"),
        ("image_id,sex,gender\ni1,F,F\n", "columns 'sex' and 'gender' both say sex; keep one"),
        ("image_id,sex\nzz,F\n", "none of its 1 image is in the packed dataset; give the table of these images"),
        ("subject_id,sex\np10,F\n", "'p10' is not, but '10' is: write ids the same way"),
    ],
)
def test_what_cannot_be_joined_is_refused(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        read_subjects(written(tmp_path / "own.csv", text), IMAGES)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_admissions_go_with_mimic_alone(tmp_path):
    own, admissions = written(tmp_path / "own.csv", "image_id,sex\ni1,F\n"), written(tmp_path / "a.csv", ADMISSIONS)
    with pytest.raises(UserError, match="--admissions .* goes with MIMIC-IV's patients.csv.gz"):
        read_subjects(own, IMAGES, admissions=admissions)
    with pytest.raises(UserError, match="neither race nor ethnicity"):
        read_subjects(written(tmp_path / "p.csv", PATIENTS), IMAGES, written(tmp_path / "b.csv", METADATA))


def test_what_packing_knows_stays_and_differences_are_told():
    table = pd.DataFrame({"sex": ["F", "M", "", "M"], "age": ["", "", "", ""]}, dtype="str")
    own = {"sex": pd.Series(["M", "M", "F", ""], dtype="str")}
    found, notes = merged(own, SubjectTable(table, (), ()))
    assert found["sex"].tolist() == ["M", "M", "F", "M"] and list(found) == ["sex"]
    assert notes == ("sex of 1 image: packed as another than the table says; that stays",)
