"""VinBigData: a row a box and reader, class 14 for none, ids without a suffix, and a test set without labels."""

import pytest

from shards.errors import UserError
from shards.releases.open import open_release
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_dicom, write_text

FINDINGS = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "No finding"),
)
A, B, C = "9a5094b2563a1ef3ff50dc5c7ff71345", "051132a778e61a86eb147c7c6f564dfe", "063319de25ce7edb9b1c6b8881290140"
D, E = "8dec5497ecc246766acfba5a4be4e619", "287422bed1d9d153387361889619abed"
TRAIN = f"""
    image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
    {A},Cardiomegaly,3,R10,691.0,1375.0,1653.0,1831.0
    {A},Aortic enlargement,0,R10,1264.0,743.0,1611.0,1019.0
    {A},Cardiomegaly,3,R9,700.0,1370.0,1650.0,1830.0
    {A},Pleural thickening,11,R9,1789.0,729.0,1875.0,992.0
    {A},Pleural thickening,11,R9,1.0,2.0,3.0,4.0
    {A},Cardiomegaly,3,R17,690.0,1370.0,1650.0,1830.0
    {B},No finding,14,R1,,,,
    {B},No finding,14,R2,,,,
    {B},No finding,14,R3,,,,
    {C},No finding,14,R8,,,,
    {C},Nodule/Mass,8,R9,5.0,6.0,7.0,8.0
    {C},Nodule/Mass,8,R10,5.0,6.0,7.0,8.0
    {C},ILD,5,R10,5.0,6.0,7.0,8.0
"""


def write(root):
    write_text(root / "train.csv", TRAIN)
    write_text(root / "sample_submission.csv", f"image_id,PredictionString\n{D},14 1 0 0 1 1\n{E},14 1 0 0 1 1")
    for number, (split, image) in enumerate((("train", A), ("train", B), ("train", C), ("test", D), ("test", E))):
        write_dicom(
            root / split / f"{image}.dicom",
            number,
            "MONOCHROME1" if image == B else "MONOCHROME2",
            PatientSex="F",
            PatientAge="031Y",
        )


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "vinbigdata")
    return tmp_path / "vinbigdata"


def signs(*positive: str) -> str:
    assert set(positive) <= set(FINDINGS)
    return "".join("1" if name in positive else "0" for name in FINDINGS)


def test_images_are_there_once_with_their_files_and_splits(root):
    assert images_of(open_release(root), "path", "subject_id", "view", "view_position", "sex", "age") == {
        A: (f"train/{A}.dicom", A, "frontal", "PA", "F", "31"),
        B: (f"train/{B}.dicom", B, "frontal", "PA", "F", "31"),
        C: (f"train/{C}.dicom", C, "frontal", "PA", "F", "31"),
        D: (f"test/{D}.dicom", D, "frontal", "PA", "F", "31"),
        E: (f"test/{E}.dicom", E, "frontal", "PA", "F", "31"),
    }


def test_labels_are_what_two_of_three_readers_say_and_unknown_for_test(root):
    release = open_release(root)
    assert release.labels[0].findings == FINDINGS
    assert labels_of(release) == {
        A: ("train", signs("Cardiomegaly")),  # two boxes of one reader are one reader
        B: ("train", signs("No finding")),
        C: ("train", signs("Nodule/Mass")),
        D: ("test", "." * 15),
        E: ("test", "." * 15),
    }


def test_pixels_are_those_of_the_files(root, tmp_path):
    _, pixels = packed(open_release(root), tmp_path / "pack")
    assert numbers_of(pixels) == {A: 0, B: ~1, C: 2, D: 3, E: 4}


def test_without_the_list_of_the_test_set_the_training_images_are_read_and_zipped_tables_too(root):
    (root / "sample_submission.csv").unlink()
    (root / "train.csv").unlink()
    write_text(root / "train.csv.zip", TRAIN)
    assert set(labels_of(open_release(root))) == {A, B, C}


def test_png_copies_of_the_images_are_found_as_well(root):
    (root / "train" / f"{A}.dicom").unlink()
    (root / "train" / f"{A}.png").write_bytes(b"")
    assert images_of(open_release(root), "path")[A] == (f"train/{A}.png",)


def test_a_finding_that_the_release_does_not_have_is_named(root):
    write_text(root / "train.csv", TRAIN.replace("Nodule/Mass", "Nodule"))
    with pytest.raises(UserError, match="Nodule"):
        open_release(root)
