"""MIMIC-CXR's DICOM files: the list of records, and the labels and views of MIMIC-CXR-JPG's tables where they are."""

import pytest

from shards.packing.attach import attach
from shards.releases import mimic_dicom
from shards.releases.open import open_release
from tests.releases import write_table
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_dicom

A, B, C = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962", "2a2277a9"
A_FILE, B_FILE, C_FILE = (
    f"files/p10/p10000032/s50414267/{A}.dcm",
    f"files/p10/p10000032/s50414267/{B}.dcm",
    f"files/p19/p19999999/s53189527/{C}.dcm",
)
METADATA = "mimic-cxr-2.0.0-metadata.csv.gz"
SPLIT, CHEXPERT = "mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-chexpert.csv.gz"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "mimic-cxr"
    write_table(
        root / "cxr-record-list.csv.gz",
        "subject_id,study_id,dicom_id,path",
        f"10000032,50414267,{A},{A_FILE}",
        f"10000032,50414267,{B},{B_FILE}",
        f"19999999,53189527,{C},{C_FILE}",
    )
    write_table(
        root / "cxr-study-list.csv.gz",
        "subject_id,study_id,path",
        "10000032,50414267,files/p10/p10000032/s50414267.txt",
        "19999999,53189527,files/p19/p19999999/s53189527.txt",
    )
    write_dicom(root / A_FILE, 0, ViewPosition="PA", PatientSex="F", PatientAge="052Y", PatientID="10000032")
    write_dicom(
        root / B_FILE, 1, "MONOCHROME1", ViewPosition="LATERAL", PatientID="10000032", Manufacturer="Carestream"
    )
    write_dicom(root / C_FILE, 2, bits=15, ViewPosition="", SeriesDescription="CHEST LAT")
    return root


@pytest.fixture
def with_tables(root):
    write_table(
        root / METADATA,
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns",
        f"{A},10000032,50414267,CHEST (PA AND LAT),PA,10,20",
        f"{B},10000032,50414267,CHEST (PA AND LAT),LL,10,20",
    )
    write_table(
        root / SPLIT,
        "dicom_id,study_id,subject_id,split",
        f"{A},50414267,10000032,train",
        f"{B},50414267,10000032,train",
        f"{C},53189527,19999999,validate",
    )
    write_table(
        root / CHEXPERT, "subject_id,study_id,Edema,Mass", "10000032,50414267,1.0,", "19999999,53189527,-1.0,0.0"
    )
    return root


def test_images_and_paths_are_those_of_the_list_and_views_of_the_headers(root):
    release = open_release(root)
    assert (release.name, release.labels) == ("mimic-cxr", ())
    columns = ("path", "subject_id", "study_id", "view", "view_position", "sex", "age", "manufacturer")
    assert images_of(release, *columns) == {
        A: (A_FILE, "10000032", "50414267", "frontal", "PA", "F", "52", ""),
        B: (B_FILE, "10000032", "50414267", "lateral", "LATERAL", "", "", "Carestream"),
        C: (C_FILE, "19999999", "53189527", "lateral", "LATERAL", "", "", ""),
    }


def test_with_the_tables_beside_views_and_labels_are_theirs_and_no_header_is_read(with_tables, monkeypatch):
    monkeypatch.setattr(mimic_dicom, "with_tags", None)  # to call it would fail
    release = open_release(with_tables)
    assert images_of(release, "view", "view_position") == {
        A: ("frontal", "PA"),
        B: ("lateral", "LL"),
        C: ("other", ""),
    }
    assert f"1 image is not in {METADATA}: their view is other" in release.notes
    assert labels_of(release, "chexpert") == {A: ("train", "1."), B: ("train", "1."), C: ("dev", "?0")}
    assert [path.name for path in release.inputs] == ["cxr-record-list.csv.gz", METADATA]


def test_tables_in_a_folder_of_their_own_or_given_with_labels_are_the_same(with_tables, tmp_path):
    expected = open_release(with_tables)
    inside, elsewhere = with_tables / "mimic-cxr-jpg", tmp_path / "elsewhere"
    for before, place, given in ((with_tables, inside, []), (inside, elsewhere, [elsewhere])):
        place.mkdir()
        for name in (METADATA, SPLIT, CHEXPERT):
            (before / name).rename(place / name)
        found = open_release(with_tables, given)
        assert images_of(found, "view") == images_of(expected, "view")
        assert labels_of(found, "chexpert") == labels_of(expected, "chexpert")


def test_labels_of_cxr_lt_come_first(with_tables):
    header = "dicom_id,subject_id,study_id,ViewPosition,ViewCodeSequence_CodeMeaning,path,Edema,Hernia"
    write_table(with_tables / "cxr-lt-2023" / "train.csv", header, f"{A},10000032,50414267,PA,,{A_FILE},0,1")
    release = open_release(with_tables)
    assert [table.name for table in release.labels] == ["cxr-lt-2023", "chexpert"]
    assert labels_of(release, "cxr-lt-2023") == {A: ("train", "01")}


def test_pixels_are_those_of_the_files(with_tables, tmp_path):
    dataset, pixels = packed(open_release(with_tables), tmp_path / "pack")
    assert numbers_of(pixels) == {A: 0, B: ~1, C: 2}
    assert dataset.info["release"] == "mimic-cxr"


def test_the_tables_alone_tell_from_the_files_whether_they_are_dicoms(with_tables):
    (with_tables / "cxr-record-list.csv.gz").unlink()
    release = open_release(with_tables)
    assert release.name == "mimic-cxr"
    assert images_of(release, "path", "view") == {A: (A_FILE, "frontal"), B: (B_FILE, "lateral")}
    for file in (with_tables / "files").rglob("*.dcm"):
        file.rename(file.with_suffix(".jpg"))
    assert open_release(with_tables).name == "mimic-cxr-jpg"


def test_half_a_download_packs_what_is_there(with_tables, tmp_path):
    (with_tables / A_FILE).unlink()
    dataset, pixels = packed(open_release(with_tables), tmp_path / "pack")
    assert set(pixels) == {B, C} and dataset.info["counts"]["rejected"] == {"absent": 1}


def test_a_list_of_records_beside_jpegs_makes_no_dicoms_of_them(with_tables):
    for file in list((with_tables / "files").rglob("*.dcm")):
        file.with_suffix(".jpg").write_bytes(b"")  # both, as who converted them has
    release = open_release(with_tables)
    assert release.name == "mimic-cxr-jpg" and set(release.images["path"].str[-4:]) == {".jpg"}


def test_labels_are_attached_later(with_tables, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in (SPLIT, CHEXPERT):
        (with_tables / name).rename(labels / name)
    packed(open_release(with_tables), tmp_path / "pack")
    ((table, new),) = attach(tmp_path / "pack", [labels])
    assert (table.name, new) == ("chexpert", True)
    assert table.table.loc[C].tolist() == ["dev", -1, 0]
