"""RANZCR CLiP: files are named by a UID alone, and a submission's zeros are no labels."""

from shards.releases.open import open_release
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_images, write_text

UID = "1.2.826.0.1.3680043.8.498"
IDS = (f"{UID}.1001", f"{UID}.1002", f"{UID}.1003", f"{UID}.2001", f"{UID}.2002")
FINDINGS = (
    "ETT - Abnormal,ETT - Borderline,ETT - Normal,NGT - Abnormal,NGT - Borderline,NGT - Incompletely Imaged,"
    "NGT - Normal,CVC - Abnormal,CVC - Borderline,CVC - Normal,Swan Ganz Catheter Present"
)
# 7e1042263 is a patient, not a number that has lost its digits
TRAIN = f"""
StudyInstanceUID,{FINDINGS},PatientID
{IDS[0]},0,0,0,0,0,0,1,0,0,0,0,ec89415d1
{IDS[1]},0,0,1,0,0,1,0,0,0,0,1,7e1042263
{IDS[2]},0,0,0,0,0,0,0,1,0,1,0,7e1042263
"""
SUBMISSION = f"""
StudyInstanceUID,{FINDINGS}
{IDS[3]},0,0,0,0,0,0,0,0,0,0,0
{IDS[4]},0,0,0,0,0,0,0,0,0,0,0
"""
PATHS = (*(f"train/{image}.jpg" for image in IDS[:3]), *(f"test/{image}.jpg" for image in IDS[3:]))
COLUMNS = ("study_id", "subject_id", "view", "view_position")
IMAGES = {
    IDS[0]: (IDS[0], "ec89415d1", "frontal", "frontal"),
    IDS[1]: (IDS[1], "7e1042263", "frontal", "frontal"),
    IDS[2]: (IDS[2], "7e1042263", "frontal", "frontal"),
    IDS[3]: (IDS[3], IDS[3], "frontal", "frontal"),
    IDS[4]: (IDS[4], IDS[4], "frontal", "frontal"),
}
LABELS = {
    IDS[0]: ("train", "00000010000"),
    IDS[1]: ("train", "00100100001"),
    IDS[2]: ("train", "00000001010"),
    IDS[3]: ("test", "..........."),
    IDS[4]: ("test", "..........."),
}


def write(root):
    """The polylines of the catheters too, which are not read."""
    write_text(root / "train.csv", TRAIN)
    write_text(root / "sample_submission.csv", SUBMISSION)
    write_text(
        root / "train_annotations.csv",
        f"""
        StudyInstanceUID,label,data
        {IDS[1]},ETT - Normal,"[[1, 2], [3, 4]]"
        """,
    )
    write_images(root, *PATHS)


def test_images_and_labels(tmp_path):
    write(tmp_path)
    release = open_release(tmp_path)
    assert release.name == "ranzcr-clip"
    assert images_of(release, *COLUMNS) == IMAGES
    assert release.images["path"].tolist() == list(PATHS)
    assert ",".join(release.labels[0].findings) == FINDINGS
    assert labels_of(release) == LABELS
    assert any("ChestX-ray14" in note for note in release.notes)


def test_training_images_alone(tmp_path):
    write(tmp_path)
    (tmp_path / "sample_submission.csv").unlink()
    release = open_release(tmp_path)
    assert labels_of(release) == {image: LABELS[image] for image in IDS[:3]}
    assert any("sample_submission.csv" in note for note in release.notes)


def test_pixels(tmp_path):
    write(tmp_path / "release")
    dataset, pixels = packed(open_release(tmp_path / "release"), tmp_path / "pack")
    assert numbers_of(pixels) == {image: number for number, image in enumerate(IDS)}
    assert not {"sex", "age", "manufacturer"} & set(dataset.catalog.columns)
