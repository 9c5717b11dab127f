"""The challenges' label tables: found by place, joined by image, findings by name."""

import pandas as pd
import pytest

from shards.errors import UserError
from shards.releases.cxrlt import find
from tests.releases import write_table

NAMES_2023 = (
    "Atelectasis,Calcification of the Aorta,Cardiomegaly,Consolidation,Edema,Emphysema,Enlarged Cardiomediastinum,"
    "Fibrosis,Fracture,Hernia,Infiltration,Lung Lesion,Lung Opacity,Mass,No Finding,Nodule,Pleural Effusion,"
    "Pleural Other,Pleural Thickening,Pneumomediastinum,Pneumonia,Pneumoperitoneum,Pneumothorax,"
    "Subcutaneous Emphysema,Support Devices,Tortuous Aorta"
)
NAMES_2024 = (
    "Adenopathy,Atelectasis,Azygos Lobe,Calcification of the Aorta,Cardiomegaly,Clavicle Fracture,Consolidation,"
    "Edema,Emphysema,Enlarged Cardiomediastinum,Fibrosis,Fissure,Fracture,Granuloma,Hernia,Hydropneumothorax,"
    "Infarction,Infiltration,Kyphosis,Lobar Atelectasis,Lung Lesion,Lung Opacity,Mass,Nodule,Normal,Pleural Effusion,"
    "Pleural Other,Pleural Thickening,Pneumomediastinum,Pneumonia,Pneumoperitoneum,Pneumothorax,Pulmonary Embolism,"
    "Pulmonary Hypertension,Rib Fracture,Round(ed) Atelectasis,Subcutaneous Emphysema,Support Devices,"
    "Tortuous Aorta,Tuberculosis"
)
FINDINGS_2023, FINDINGS_2024 = NAMES_2023.split(","), NAMES_2024.split(",")
TASK_3 = ["Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis"]
LEADING_2023 = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "path"]
LEADING_2024 = ["subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "fpath"]


def row_2023(image, values, **cells):
    """A line of a 2023 table; `values` are the findings' cells."""
    known = {"dicom_id": image, "subject_id": "10000032", "study_id": "50414267", "ViewPosition": "AP"}
    known |= {"path": f"files/p10/p10000032/s50414267/{image}.jpg"} | cells
    return ",".join([*(known.get(column, "") for column in LEADING_2023), *values])


def row_2024(image, values):
    known = {"subject_id": "10000032", "study_id": "s50414267", "fpath": f"files/p10/p10000032/s50414267/{image}.jpg"}
    return ",".join([*(known.get(column, "") for column in LEADING_2024), *values])


def header(leading, findings):
    return ",".join([*leading, *findings])


def one_hot(findings, *positive):
    return [str(int(name in positive)) for name in findings]


def values(table, image):
    row = table.table.loc[image, list(table.findings)]
    return [None if pd.isna(value) else int(value) for value in row]


def refused(folder):
    with pytest.raises(UserError) as error:
        find(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def folder_2023(tmp_path):
    names = header(LEADING_2023, FINDINGS_2023)
    write_table(
        tmp_path / "train.csv",
        names,
        row_2023("a", one_hot(FINDINGS_2023, "Edema", "Hernia")),
        row_2023("b", [f"{value}.0" for value in one_hot(FINDINGS_2023, "No Finding")]),
    )
    write_table(tmp_path / "development.csv", names, row_2023("c", one_hot(FINDINGS_2023, "Mass")))
    write_table(tmp_path / "test.csv", names, row_2023("d", one_hot(FINDINGS_2023)))
    return tmp_path


def test_2023_has_26_findings_in_the_published_order(folder_2023):
    (table,) = find(folder_2023)
    assert (table.name, table.findings) == ("cxr-lt-2023", tuple(FINDINGS_2023))
    assert len(table.findings) == 26
    assert table.table["split"].to_dict() == {"a": "train", "b": "train", "c": "dev", "d": "test"}
    for image, positive in (("a", ("Edema", "Hernia")), ("b", ("No Finding",)), ("c", ("Mass",)), ("d", ())):
        assert values(table, image) == [int(name in positive) for name in FINDINGS_2023]
    assert table.inputs == tuple(folder_2023 / name for name in ("train.csv", "development.csv", "test.csv"))


def test_2024_has_40_findings_and_takes_the_image_from_fpath(tmp_path):
    names = header(LEADING_2024, FINDINGS_2024)
    positive = ("Round(ed) Atelectasis", "Adenopathy")
    write_table(tmp_path / "train_labeled.csv", names, row_2024("a-1", one_hot(FINDINGS_2024, *positive)))
    write_table(tmp_path / "development_labeled_task1.csv", names, row_2024("b-1", one_hot(FINDINGS_2024)))
    write_table(tmp_path / "test_labeled_task1.csv", names, row_2024("c-1", one_hot(FINDINGS_2024, "Normal")))
    (table,) = find(tmp_path)
    assert (table.name, table.findings) == ("cxr-lt-2024", tuple(FINDINGS_2024))
    assert len(table.findings) == 40
    assert table.table["split"].to_dict() == {"a-1": "train", "b-1": "dev", "c-1": "test"}
    assert values(table, "a-1") == [int(name in positive) for name in FINDINGS_2024]


def test_2024_all_has_45_findings_and_its_own_split(tmp_path):
    findings = [*FINDINGS_2024, *TASK_3]
    write_table(
        tmp_path / "labels.csv",
        header(LEADING_2024, [*findings, "split"]),
        row_2024("a", [*one_hot(findings, "Bulla"), "train"]),
        row_2024("b", [*one_hot(findings), "development"]),
        row_2024("c", [*one_hot(findings), "dev"]),
        row_2024("d", [*one_hot(findings, "Scoliosis"), "test"]),
    )
    (table,) = find(tmp_path)
    assert (table.name, table.findings) == ("cxr-lt-2024-all", tuple(findings))
    assert len(table.findings) == 45
    assert table.table["split"].tolist() == ["train", "dev", "dev", "test"]
    assert values(table, "d") == [int(name == "Scoliosis") for name in findings]


def test_tables_without_findings_are_blank_and_keep_their_split(folder_2023):
    """As the organisers gave them out while the challenge ran."""
    write_table(folder_2023 / "development.csv", header(LEADING_2023, []), row_2023("c", []))
    write_table(folder_2023 / "test.csv", header(LEADING_2023, []), row_2023("d", []))
    (table,) = find(folder_2023)
    assert table.findings == tuple(FINDINGS_2023)
    assert table.table["split"].to_dict() == {"a": "train", "b": "train", "c": "dev", "d": "test"}
    assert values(table, "c") == values(table, "d") == [None] * 26
    assert sum(values(table, "a")) == 2


def test_the_labelled_table_is_preferred_to_the_unlabelled(tmp_path):
    for name, image, value in (
        ("train_labeled.csv", "a", "1"),
        ("development_labeled_task1.csv", "b", "1"),
        ("development_task1.csv", "b", "0"),
    ):
        write_table(tmp_path / name, "fpath,Edema", f"files/{image}.jpg,{value}")
    write_table(tmp_path / "test_task1.csv", "fpath", "files/c.jpg")
    (table,) = find(tmp_path)
    assert [values(table, image) for image in "abc"] == [[1], [1], [None]]
    assert table.table["split"].tolist() == ["train", "dev", "test"]


def test_findings_are_matched_by_name_not_by_place(folder_2023):
    backwards = FINDINGS_2023[::-1]
    write_table(folder_2023 / "test.csv", header(LEADING_2023, backwards), row_2023("d", one_hot(backwards, "Edema")))
    (table,) = find(folder_2023)
    assert values(table, "d") == [int(name == "Edema") for name in FINDINGS_2023]


@pytest.mark.parametrize("place", ["", "cxr-lt-2023", "cxr-lt-multi-label-2.0.0/cxr-lt-2023"])
def test_tables_are_found_where_the_archive_unzips_them(tmp_path, place):
    write_table(tmp_path / place / "train.csv", header(LEADING_2023, ["Edema"]), row_2023("a", ["1"]))
    assert [table.inputs for table in find(tmp_path)] == [(tmp_path / place / "train.csv",)]


def test_every_release_in_a_folder_is_found(tmp_path):
    write_table(tmp_path / "cxr-lt-2023" / "train.csv", "dicom_id,Edema", "a,1")
    write_table(tmp_path / "cxr-lt-2024" / "train_labeled.csv", "fpath,Edema", "files/a.jpg,1")
    write_table(tmp_path / "cxr-lt-2024" / "labels.csv", "fpath,Edema,split", "files/a.jpg,1,test")
    assert [table.name for table in find(tmp_path)] == ["cxr-lt-2023", "cxr-lt-2024", "cxr-lt-2024-all"]


def test_a_folder_without_tables_has_none(tmp_path):
    assert find(tmp_path) == []


def test_uncertain_and_blank_are_kept(tmp_path):
    write_table(tmp_path / "train.csv", "dicom_id,Edema,Mass", "a,-1,", "b,-1.0,0")
    (table,) = find(tmp_path)
    assert values(table, "a") == [-1, None] and values(table, "b") == [-1, 0]


def test_a_finding_that_only_one_table_has_is_named(folder_2023):
    write_table(folder_2023 / "test.csv", header(LEADING_2023, ["Bulla"]), row_2023("d", ["1"]))
    message = refused(folder_2023)
    assert str(folder_2023 / "test.csv") in message and str(folder_2023 / "train.csv") in message
    assert "'Atelectasis'" in message


def test_an_image_in_one_table_twice_is_refused(tmp_path):
    path = write_table(tmp_path / "train.csv", "dicom_id,Edema", "a,1", "b,1", "a,0")
    assert refused(tmp_path) == f"{path}: image 'a' is in more than one row; keep one of them"


def test_an_image_in_two_splits_is_refused_with_both_files(tmp_path):
    train = write_table(tmp_path / "train.csv", "dicom_id,Edema", "a,1", "b,1")
    test = write_table(tmp_path / "test.csv", "dicom_id,Edema", "b,1")
    message = refused(tmp_path)
    assert "'b'" in message and str(train) in message and str(test) in message


def test_an_unknown_value_names_file_column_and_value(tmp_path):
    path = write_table(tmp_path / "train.csv", "dicom_id,Edema,Mass", "a,1,0", "b,1,maybe")
    message = refused(tmp_path)
    assert message.startswith(f"{path}: column 'Mass' holds 'maybe'") and "remove it from the table" in message


def test_a_column_that_is_no_finding_is_refused_not_taken_for_one(tmp_path):
    write_table(tmp_path / "train.csv", "Unnamed: 0,dicom_id,Edema", "0,a,1", "1,b,1", "2,c,0")
    assert "'Unnamed: 0' holds '2'" in refused(tmp_path)


def test_an_unknown_split_is_named(tmp_path):
    path = write_table(tmp_path / "labels.csv", "fpath,Edema,split", "files/a.jpg,1,fold3")
    message = refused(tmp_path)
    assert message.startswith(f"{path}: column 'split' holds 'fold3'") and "development" in message


def test_labels_without_a_split_are_refused(tmp_path):
    path = write_table(tmp_path / "labels.csv", "fpath,Edema", "files/a.jpg,1")
    assert refused(tmp_path).startswith(f"{path}: column 'split' is missing")


def test_a_table_without_an_image_column_says_what_it_found(tmp_path):
    path = write_table(tmp_path / "train.csv", "image,Edema", "a,1")
    message = refused(tmp_path)
    assert message == f"{path}: column 'dicom_id' is missing; found image, Edema"


def test_a_table_without_a_finding_is_refused(tmp_path):
    path = write_table(tmp_path / "train.csv", header(LEADING_2023, []), row_2023("a", []))
    message = refused(tmp_path)
    assert str(path) in message and "no column of a finding" in message


def test_an_exponent_as_the_image_is_refused(tmp_path):
    write_table(tmp_path / "train.csv", "dicom_id,Edema", "1.5e+10,1")
    assert "'dicom_id' holds '1.5e+10'" in refused(tmp_path)


def test_a_blank_path_is_refused_with_its_line(tmp_path):
    write_table(tmp_path / "train_labeled.csv", "fpath,Edema", "files/a.jpg,1", ",1")
    assert "'fpath' is blank in line 3" in refused(tmp_path)
