"""SIIM-ACR: the run-length mask is the label, its column begins with a blank, and files lie in folders of UIDs."""

import pytest

from shards.releases.open import open_release
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_dicom, write_text

UID = "1.2.276.0.7230010.3.1"
A, B, C, D = (f"{UID}.4.8323329.{n}.1517875201.850819" for n in (6904, 13666, 11028, 10366))
MASKS = f"""
    ImageId, EncodedPixels
    {A}, -1
    {B}, 557374 2 1015 8 1009 14 1002 20 997 26 990 32
    {B}, 513924 7 1013 12 1010 14 1008 16
    {C},-1
"""


# ages as these releases have them, against the standard
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


def write(root):
    write_text(root / "train-rle.csv", MASKS)
    write_text(root / "sample_submission.csv", f"ImageId,EncodedPixels\n{D},1 2")  # an example, not a mask
    for number, (image, split) in enumerate(((A, "train"), (B, "train"), (C, "train"), (D, "test"))):
        write_dicom(
            root / f"dicom-images-{split}" / f"{UID}.2.{number}" / f"{UID}.3.{number}" / f"{image}.dcm",
            number,
            bits=8,
            PatientID=f"p{(number + 1) // 2}",
            StudyInstanceUID=f"{UID}.2.{number}",
            ViewPosition="AP" if number else "PA",
            PatientSex="M",
            PatientAge="58",
        )


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "siim")
    return tmp_path / "siim"


def test_images_are_found_below_folders_of_uids_and_patients_come_from_the_headers(root):
    columns = ("path", "subject_id", "study_id", "view", "view_position", "sex", "age")
    assert images_of(open_release(root), *columns) == {
        A: (f"dicom-images-train/{UID}.2.0/{UID}.3.0/{A}.dcm", "p0", f"{UID}.2.0", "frontal", "PA", "M", "58"),
        B: (f"dicom-images-train/{UID}.2.1/{UID}.3.1/{B}.dcm", "p1", f"{UID}.2.1", "frontal", "AP", "M", "58"),
        C: (f"dicom-images-train/{UID}.2.2/{UID}.3.2/{C}.dcm", "p1", f"{UID}.2.2", "frontal", "AP", "M", "58"),
        D: (f"dicom-images-test/{UID}.2.3/{UID}.3.3/{D}.dcm", "p2", f"{UID}.2.3", "frontal", "AP", "M", "58"),
    }


def test_a_mask_is_a_pneumothorax_and_the_example_of_a_submission_is_none(root):
    release = open_release(root)
    assert release.labels[0].findings == ("Pneumothorax",)
    assert labels_of(release) == {A: ("train", "0"), B: ("train", "1"), C: ("train", "0"), D: ("test", ".")}


def test_the_overlap_with_chestx_ray14_is_said(root):
    assert any("ChestX-ray14" in note for note in open_release(root).notes)


def test_the_second_stage_is_read_too_and_preferred(root):
    write_text(root / "stage_2_train.csv", MASKS.replace(" EncodedPixels", "EncodedPixels") + f"{D},5 6\n")
    (root / "sample_submission.csv").unlink()
    assert labels_of(open_release(root)) == {A: ("train", "0"), B: ("train", "1"), C: ("train", "0"), D: ("train", "1")}


def test_pixels_are_those_of_the_files(root, tmp_path):
    _, pixels = packed(open_release(root), tmp_path / "pack")
    assert numbers_of(pixels) == {A: 0, B: 1, C: 2, D: 3}
