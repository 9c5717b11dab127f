"""Grand X-Ray Slam: two divisions, a submission's values are no labels, and of test images only the name is known."""

import pytest

from shards.releases.open import open_release
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_images, write_text

FINDINGS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
TRAIN = f"""
Image_name,Patient_ID,Study,Sex,Age,ViewCategory,ViewPosition,{FINDINGS}
00000011_001_001.jpg,11,1,Male,45.0,Frontal,AP,0,1,0,0,0,0,0,1,0,0,0,0,0,1
00000011_001_002.jpg,11,1,Male,45.0,Lateral,Lateral,0,1,0,0,0,0,0,1,0,0,0,0,0,1
00000011_002_001.jpg,11,2,Male,46.0,Frontal,PA,0,0,0,0,0,0,0,0,1,0,0,0,0,0
00000012_001_001.jpg,12,1,Unknown,,Frontal,,0.0,,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0
"""
SUBMISSION = f"""
Image_name,{FINDINGS}
00000020_001_001.jpg,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5
00000020_001_002.jpg,0,0,0,0,0,0,0,0,0,0,0,0,0,0
"""
IDS = (
    "00000011_001_001.jpg",
    "00000011_001_002.jpg",
    "00000011_002_001.jpg",
    "00000012_001_001.jpg",
    "00000020_001_001.jpg",
    "00000020_001_002.jpg",
)
COLUMNS = ("study_id", "subject_id", "view", "view_position", "sex", "age")
IMAGES = dict(
    zip(
        IDS,
        (
            ("00000011_001", "00000011", "frontal", "AP", "M", "45"),
            ("00000011_001", "00000011", "lateral", "Lateral", "M", "45"),
            ("00000011_002", "00000011", "frontal", "PA", "M", "46"),
            ("00000012_001", "00000012", "frontal", "Frontal", "", ""),
            ("00000020_001", "00000020", "other", "", "", ""),
            ("00000020_001", "00000020", "other", "", "", ""),
        ),
        strict=True,
    )
)
LABELS = dict(
    zip(
        IDS,
        (
            ("train", "01000001000001"),
            ("train", "01000001000001"),
            ("train", "00000000100000"),
            ("train", "0.000000100000"),
            ("test", ".............."),
            ("test", ".............."),
        ),
        strict=True,
    )
)


def paths(division):
    return tuple(f"train{division}/{name}" for name in IDS[:4]) + tuple(f"test{division}/{name}" for name in IDS[4:])


PATHS = paths("1")


def write(root, division="1", submission="sample_submission_1.csv", patients="000000"):
    write_text(root / f"train{division}.csv", TRAIN.replace("000000", patients))
    write_text(root / submission, SUBMISSION.replace("000000", patients))
    write_images(root, *(path.replace("000000", patients) for path in paths(division)))


@pytest.mark.parametrize(
    ("division", "submission"),
    [("1", "sample_submission_1.csv"), ("1", "sample_submission1.csv"), ("2", "sample_submission_2.csv")],
)
def test_either_division(tmp_path, division, submission):
    write(tmp_path, division, submission)
    release = open_release(tmp_path)
    assert release.name == "grand-xray-slam"
    assert images_of(release, *COLUMNS) == IMAGES
    assert release.images["path"].tolist() == list(paths(division))
    assert ",".join(release.labels[0].findings) == FINDINGS
    assert labels_of(release) == LABELS


def test_both_divisions_in_one_folder(tmp_path):
    write(tmp_path)
    write(tmp_path, "2", "sample_submission_2.csv", "000009")
    release = open_release(tmp_path)
    others = {image.replace("000000", "000009"): read for image, read in LABELS.items()}
    assert labels_of(release) == LABELS | others
    read = dict(zip(release.images["image_id"], release.images["path"], strict=True))
    assert read["00000011_001_001.jpg"] == "train1/00000011_001_001.jpg"
    assert read["00000920_001_002.jpg"] == "test2/00000920_001_002.jpg"
    assert images_of(release, "subject_id")["00000912_001_001.jpg"] == ("00000912",)


def test_training_images_alone(tmp_path):
    write(tmp_path)
    (tmp_path / "sample_submission_1.csv").unlink()
    release = open_release(tmp_path)
    assert labels_of(release) == {image: LABELS[image] for image in IDS[:4]}


def test_pixels_and_columns_of_the_packed_dataset(tmp_path):
    write(tmp_path / "release")
    dataset, pixels = packed(open_release(tmp_path / "release"), tmp_path / "pack")
    assert numbers_of(pixels) == {image: number for number, image in enumerate(IDS)}
    catalog = dataset.catalog.set_index("image_id").loc[list(IDS)]
    assert catalog["age"].fillna(-1).tolist() == [45, 45, 46, -1, -1, -1]
    assert set(dataset.labels().split[:].tolist()) >= {"train", "test"}
