"""MIMIC-CXR-JPG: the catalog, the views, its own labels, and which label releases are found with it."""

import re

import pandas as pd
import pytest

from shards.errors import UserError
from shards.releases import mimic
from shards.releases.open import open_release
from shards.releases.release import IMAGE_COLUMNS
from tests.releases import write_table

METADATA = "mimic-cxr-2.0.0-metadata.csv.gz"
SPLIT = "mimic-cxr-2.0.0-split.csv.gz"
CHEXPERT = "mimic-cxr-2.0.0-chexpert.csv.gz"
NEGBIO = "mimic-cxr-2.0.0-negbio.csv.gz"
HEADER = "dicom_id,subject_id,study_id,ViewPosition,Rows,Columns"
CXR_LT = "dicom_id,subject_id,study_id,ViewPosition,ViewCodeSequence_CodeMeaning,path,Edema,Mass"


@pytest.fixture
def root(tmp_path):
    """Two images of study 50000001, one of 50000002 and one of 50000003, which has no CheXpert row."""
    root = tmp_path / "mimic"
    write_table(
        root / METADATA,
        HEADER,
        "a-1,10000032,50000001,AP,10,20",
        "a-2,10000032,50000001,LATERAL,10,20",
        "b-1,10000032,50000002,,10,20",
        "c-1,19999999,50000003,PA,10,20",
    )
    write_table(
        root / SPLIT,
        "dicom_id,study_id,subject_id,split",  # another column order than the metadata's, as published
        "a-1,50000001,10000032,train",
        "a-2,50000001,10000032,train",
        "b-1,50000002,10000032,validate",
        "c-1,50000003,19999999,test",
    )
    write_table(
        root / CHEXPERT,
        "subject_id,study_id,Edema,Lung Opacity,No Finding",
        "10000032,50000001,1.0,,-1.0",
        "10000032,50000002,0.0,-1.0,",
    )
    return root


def only(root, name):
    return next(table for table in open_release(root).labels if table.name == name)


def none_for_missing(column: pd.Series) -> list:
    return column.astype(object).where(column.notna(), None).tolist()


def refused(root, *label_folders):
    with pytest.raises(UserError) as error:
        open_release(root, label_folders)
    return str(error.value)


def test_catalog_has_ids_as_text_and_the_published_paths(root):
    release = open_release(root)
    assert (release.name, release.root) == ("mimic-cxr-jpg", root)
    assert release.images.columns.tolist() == list(IMAGE_COLUMNS)
    assert release.images.iloc[0].to_dict() == {
        "image_id": "a-1",
        "study_id": "50000001",
        "subject_id": "10000032",
        "view": "frontal",
        "view_position": "AP",
        "path": "files/p10/p10000032/s50000001/a-1.jpg",
    }
    assert release.images["path"].iloc[3] == "files/p19/p19999999/s50000003/c-1.jpg"


def test_paths_lead_to_the_files(release_folder):
    release = open_release(release_folder)
    assert len(release.images) > 100
    assert all((release_folder / path).is_file() for path in release.images["path"])


def test_ids_as_floats_or_with_letters_are_the_same_catalog(root):
    plain = open_release(root).images
    write_table(
        root / METADATA,
        HEADER,
        "a-1,10000032.0,s50000001,AP,10,20",
        "a-2,p10000032,50000001.0,LATERAL,10,20",
        "b-1,10000032, s50000002,,10,20",
        "c-1,19999999.0,50000003, PA ,10,20",
    )
    pd.testing.assert_frame_equal(open_release(root).images, plain)


VIEWS = {
    "frontal": ("AP", "PA"),
    "lateral": ("LATERAL", "LL", "XTABLE LATERAL"),
    "other": ("", "PA LLD", "LAO", "RAO", "AP AXIAL", "AP LLD", "AP RLD", "SWIMMERS", "PA RLD", "LPO"),
}


def test_only_ap_and_pa_are_frontal_and_the_raw_value_is_kept(root):
    expected = {position: view for view, positions in VIEWS.items() for position in positions}
    rows = [f"i{n},1,{50000001 + n},{position},1,1" for n, position in enumerate(expected)]
    write_table(root / METADATA, HEADER, *rows)
    images = mimic.read(root, ()).images
    assert dict(zip(images["view_position"], images["view"], strict=True)) == expected


def test_study_labels_repeat_on_every_image_of_the_study(root):
    table = only(root, "chexpert").table
    assert table.loc["a-1"].equals(table.loc["a-2"])


def test_uncertain_and_blank_are_kept(root):
    labels = only(root, "chexpert")
    assert labels.findings == ("Edema", "Lung Opacity", "No Finding")
    table = labels.table
    assert none_for_missing(table["Edema"]) == [1, 1, 0, None]
    assert none_for_missing(table["Lung Opacity"]) == [None, None, -1, None]
    assert none_for_missing(table["No Finding"]) == [-1, -1, None, None]


def test_a_study_without_labels_is_blank_and_keeps_its_split(root):
    row = only(root, "chexpert").table.loc["c-1"]
    assert row["split"] == "test" and row.drop("split").isna().all()


def test_the_official_splits_are_train_dev_and_test(root):
    assert only(root, "chexpert").table["split"].to_dict() == {
        "a-1": "train",
        "a-2": "train",
        "b-1": "dev",
        "c-1": "test",
    }


def test_an_image_without_a_split_has_none(root):
    write_table(root / SPLIT, "dicom_id,split", "a-1,train", "a-2,train", "b-1,validate")
    assert none_for_missing(only(root, "chexpert").table["split"]) == ["train", "train", "dev", None]


def test_negbio_is_a_label_table_of_its_own(root):
    write_table(root / NEGBIO, "subject_id,study_id,Edema", "10000032,50000001,-1.0")
    assert [table.name for table in open_release(root).labels] == ["chexpert", "negbio"]
    assert none_for_missing(only(root, "negbio").table["Edema"]) == [-1, -1, None, None]
    assert only(root, "negbio").inputs == (root / NEGBIO, root / SPLIT)


def test_a_release_without_labels_is_read(root):
    (root / CHEXPERT).unlink()
    (root / SPLIT).unlink()
    release = open_release(root)
    assert release.labels == () and len(release.images) == 4
    assert release.inputs == (root / METADATA,)


def test_the_challenge_inside_the_release_comes_before_its_own_labels(root):
    write_table(root / "cxr-lt-2023" / "train.csv", CXR_LT, "a-1,10000032,50000001,AP,,files/a-1.jpg,0,1")
    assert [table.name for table in open_release(root).labels] == ["cxr-lt-2023", "chexpert"]


def test_a_given_label_folder_comes_first_and_replaces_the_same_release_in_the_source(root, tmp_path):
    write_table(root / "cxr-lt-2023" / "train.csv", CXR_LT, "a-1,10000032,50000001,AP,,files/a-1.jpg,0,1")
    given, newer = tmp_path / "given", tmp_path / "newer"
    write_table(given / "train.csv", CXR_LT, "a-1,10000032,50000001,AP,,files/a-1.jpg,1,0")
    write_table(newer / "train_labeled.csv", "fpath,Edema", "files/a-1.jpg,1")
    release = open_release(root, [newer, given])
    assert [table.name for table in release.labels] == ["cxr-lt-2024", "cxr-lt-2023", "chexpert"]
    assert release.labels[1].inputs == (given / "train.csv",)
    assert release.labels[1].table.loc["a-1", "Edema"] == 1


def test_a_given_label_folder_without_labels_is_refused(root, tmp_path):
    """Packing takes hours: a mistyped folder must not end in a dataset without its labels."""
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(root, tmp_path / "empty")


def test_labels_of_other_images_are_refused(root, tmp_path):
    write_table(tmp_path / "other" / "train.csv", CXR_LT, "z-9,10000032,50000001,AP,,files/z-9.jpg,1,0")
    assert str(tmp_path / "other") in refused(root, tmp_path / "other")


def test_an_image_that_stands_twice_is_refused(root):
    write_table(root / METADATA, HEADER, "a-1,1,2,AP,1,1", "a-2,1,2,AP,1,1", "a-1,1,3,AP,1,1")
    assert refused(root) == f"{root / METADATA}: image 'a-1' is in more than one row; keep one of them"


@pytest.mark.parametrize("column", ["dicom_id", "subject_id", "study_id", "ViewPosition"])
def test_a_missing_column_is_named(root, column):
    header = HEADER.replace(column, "other")
    write_table(root / METADATA, header, "a-1,1,2,AP,1,1")
    message = refused(root)
    assert str(root / METADATA) in message and f"{column!r} is missing" in message


@pytest.mark.parametrize("column", ["dicom_id", "subject_id", "study_id"])
def test_a_blank_id_is_named_with_its_line(root, column):
    cells = dict(zip(HEADER.split(","), ["a-2", "1", "2", "PA", "1", "1"], strict=True)) | {column: ""}
    write_table(root / METADATA, HEADER, "a-1,1,2,AP,1,1", ",".join(cells.values()))
    message = refused(root)
    assert str(root / METADATA) in message and f"column {column!r} is blank in line 3" in message


def test_a_table_without_a_row_is_refused(root):
    write_table(root / METADATA, HEADER)
    assert str(root / METADATA) in refused(root)


def test_a_study_labelled_twice_is_refused(root):
    write_table(root / CHEXPERT, "subject_id,study_id,Edema", "1,50000001,1.0", "1,50000001.0,0.0")
    message = refused(root)
    assert str(root / CHEXPERT) in message and "study_id '50000001' is in more than one row" in message


def test_an_image_with_two_splits_is_refused(root):
    write_table(root / SPLIT, "dicom_id,split", "a-1,train", "a-1,test")
    message = refused(root)
    assert str(root / SPLIT) in message and "'a-1'" in message


def test_labels_without_the_split_table_say_what_is_missing(root):
    (root / SPLIT).unlink()
    assert f"{root / SPLIT}: no such file" in refused(root)


def test_an_unknown_split_is_named(root):
    write_table(root / SPLIT, "dicom_id,split", "a-1,train", "a-2,holdout")
    message = refused(root)
    assert str(root / SPLIT) in message and "'holdout'" in message and "validate" in message


def test_an_unknown_finding_value_is_named(root):
    write_table(root / CHEXPERT, "subject_id,study_id,Edema", "1,50000001,3.0")
    message = refused(root)
    assert str(root / CHEXPERT) in message and "'Edema' holds '3.0'" in message


def test_folders_that_are_not_there_or_no_release_are_told_apart(root, tmp_path):
    assert re.search("no such folder; .*--source", refused(tmp_path / "absent"))
    assert re.search("no such folder; .*--labels", refused(root, tmp_path / "absent"))
    (tmp_path / "photos").mkdir()
    assert re.search(f"photos: not a release .*{METADATA}", refused(tmp_path / "photos"))
