"""CheXpert 1.0 and its small copy: patients, studies and ids stand in paths, a table a split, and a blank is no 0."""

import shutil

import pytest

from shards.errors import UserError
from shards.releases.open import open_release
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_images, write_text

FINDINGS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,"
    "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{FINDINGS}"
TRAIN = f"""
{HEADER}
CheXpert-v1.0-small/train/patient00011/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0
CheXpert-v1.0-small/train/patient00011/study1/view2_lateral.jpg,Female,68,Lateral,,1.0,,,,,,,,,0.0,,,,1.0
CheXpert-v1.0-small/train/patient00011/study2/view1_frontal.jpg,Female,71,Frontal,PA,,,-1.0,1.0,,-1.0,0.0,,-1.0,,1.0,,,
CheXpert-v1.0-small/train/patient00012/study1/view1_frontal.jpg,Male,0,Frontal,LL,,0.0,,,,,,,,,,1.0,1.0,
CheXpert-v1.0-small/train/patient64539/study1/view1_frontal.jpg,Unknown,90,Frontal,RL,,,,,1.0,,,0.0,,,,,,
"""
VALID = f"""
{HEADER}
CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
CheXpert-v1.0-small/valid/patient64542/study1/view2_lateral.jpg,Female,70,Lateral,,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0
"""
PATHS = (
    "train/patient00011/study1/view1_frontal.jpg",
    "train/patient00011/study1/view2_lateral.jpg",
    "train/patient00011/study2/view1_frontal.jpg",
    "train/patient00012/study1/view1_frontal.jpg",
    "train/patient64539/study1/view1_frontal.jpg",
    "valid/patient64541/study1/view1_frontal.jpg",
    "valid/patient64542/study1/view2_lateral.jpg",
)
IDS = tuple(path.removesuffix(".jpg") for path in PATHS)
IMAGES = dict(
    zip(
        IDS,
        (
            ("patient00011/study1", "patient00011", "frontal", "AP", "F", "68"),
            ("patient00011/study1", "patient00011", "lateral", "Lateral", "F", "68"),
            ("patient00011/study2", "patient00011", "frontal", "PA", "F", "71"),
            ("patient00012/study1", "patient00012", "frontal", "LL", "M", "0"),
            ("patient64539/study1", "patient64539", "frontal", "RL", "", "90"),
            ("patient64541/study1", "patient64541", "frontal", "AP", "M", "73"),
            ("patient64542/study1", "patient64542", "lateral", "Lateral", "F", "70"),
        ),
        strict=True,
    )
)
LABELS = dict(
    zip(
        IDS,
        (
            ("train", "1........0...1"),
            ("train", "1........0...1"),
            ("train", "..?1.?0.?.1..."),
            ("train", ".0.........11."),
            ("train", "....1..0......"),
            ("dev", "01110000000000"),
            ("dev", "10000000000001"),
        ),
        strict=True,
    )
)
COLUMNS = ("study_id", "subject_id", "view", "view_position", "sex", "age")


def write(root):
    write_text(root / "train.csv", TRAIN)
    write_text(root / "valid.csv", VALID)
    write_images(root, *PATHS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Read-only by agreement."""
    root = tmp_path_factory.mktemp("chexpert") / "CheXpert-v1.0-small"
    write(root)
    return root


def test_patients_studies_views_sex_and_age(whole):
    release = open_release(whole)
    assert release.name == "chexpert"
    assert images_of(release, *COLUMNS) == IMAGES
    assert release.images["path"].tolist() == list(PATHS)
    assert any("CheXpert Plus has the same patients" in note for note in release.notes)


def test_a_table_a_split_and_a_blank_is_not_a_negative(whole):
    (labels,) = open_release(whole).labels
    assert (labels.name, ",".join(labels.findings)) == ("chexpert", FINDINGS)
    assert [path.name for path in labels.inputs] == ["train.csv", "valid.csv"]
    assert labels_of(open_release(whole)) == LABELS


def test_pixels_and_columns_of_the_packed_dataset(whole, tmp_path):
    dataset, pixels = packed(open_release(whole), tmp_path / "pack")
    assert numbers_of(pixels) == {image: number for number, image in enumerate(IDS)}
    catalog = dataset.catalog.set_index("image_id").loc[list(IDS)]
    assert catalog["sex"].fillna("").tolist() == ["F", "F", "F", "M", "", "M", "F"]
    assert catalog["age"].tolist() == [68, 68, 71, 0, 90, 73, 70]
    assert catalog["view"].tolist() == [values[2] for values in IMAGES.values()]


@pytest.mark.parametrize("folder", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
def test_tables_beside_the_folder_of_the_images_small_or_full(tmp_path, folder):
    """The tables of the small copy over the full images too: its Path has the other folder's name."""
    write(tmp_path)
    for split in ("train", "valid"):
        shutil.move(tmp_path / split, tmp_path / folder / split)
    release = open_release(tmp_path)
    assert release.images["path"].tolist() == [f"{folder}/{path}" for path in PATHS]
    assert images_of(release, *COLUMNS) == IMAGES and labels_of(release) == LABELS
    assert any(folder in note for note in release.notes)


def test_without_valid_csv_the_rest_is_read_and_that_is_said(tmp_path):
    write(tmp_path)
    (tmp_path / "valid.csv").unlink()
    release = open_release(tmp_path)
    assert labels_of(release) == {image: LABELS[image] for image in IDS[:5]}
    assert any("valid.csv" in note for note in release.notes)


@pytest.mark.parametrize("name", ["test.csv", "test_labels.csv"])
def test_the_later_test_set_has_no_columns_of_view_sex_and_age(tmp_path, name):
    write(tmp_path)
    write_text(
        tmp_path / name,
        f"""
        Path,{FINDINGS}
        test/patient64741/study1/view1_frontal.jpg,0,1,0,1,0,0,0,0,0,0,0,0,0,1
        test/patient64741/study1/view2_lateral.jpg,0,1,0,1,0,0,0,0,0,0,0,0,0,1
        """,
    )
    release = open_release(tmp_path)
    read = images_of(release, *COLUMNS)
    assert list(read.values())[7:] == [
        ("patient64741/study1", "patient64741", "frontal", "frontal", "", ""),
        ("patient64741/study1", "patient64741", "lateral", "lateral", "", ""),
    ]
    assert list(labels_of(release).values())[7:] == [("test", "01010000000001")] * 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",Female,71,Frontal,PA,,,-1.0", ",Female,71,Frontal,PA,,,maybe", "train.csv.*'Cardiomegaly'.*'maybe'"),
        ("patient00012/study1/view1_frontal.jpg", "patient00011/study1/view1_frontal.jpg", "train.csv.*patient00011"),
        ("train/patient00012/study1/view1_frontal.jpg", "train/12/1/view1_frontal.jpg", "train.csv.*'Path'.*train/12"),
        ("Path,Sex,Age", "path,Sex,Age", "CheXpert|not a release"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, old, new, said):
    write(tmp_path)
    table = tmp_path / "train.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(UserError, match=said) as error:
        open_release(tmp_path)
    assert "\n" not in str(error.value)
