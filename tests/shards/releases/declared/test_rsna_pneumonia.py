"""RSNA Pneumonia: a row a box, zipped tables, 8 bits in JPEG frames, and ids of images that are called patients."""

import pytest

from shards.errors import UserError
from shards.releases.open import open_release
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_dicom, write_text

A, B, C = "0004cfab-14fd-4e49-80ba-63a80b6bddd6", "00313ee0-9eaa-42f4-b0ab-c148ed3241cd", "00322d4d-1c29-4943-afc9"
D = "0000a175-0e68-4ca4-b1af-167204a7e0bc"
LABELS = f"""
    patientId,x,y,width,height,Target
    {A},,,,,0
    {B},316.0,318.0,170.0,478.0,1
    {B},660.0,375.0,146.0,402.0,1
    {C},,,,,0
"""
CLASSES = f"""
    patientId,class
    {A},No Lung Opacity / Not Normal
    {B},Lung Opacity
    {B},Lung Opacity
    {C},Normal
"""
SUBMISSION = f"patientId,PredictionString\n{D},0.5 0 0 100 100"


# ages as these releases have them, against the standard
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


def write(root):
    write_text(root / "stage_2_train_labels.csv.zip", LABELS)
    write_text(root / "stage_2_detailed_class_info.csv.zip", CLASSES)
    write_text(root / "stage_2_sample_submission.csv", SUBMISSION)
    train, test = root / "stage_2_train_images", root / "stage_2_test_images"
    write_dicom(train / f"{A}.dcm", 0, bits=8, PatientSex="F", PatientAge="51", ViewPosition="PA", PatientID=A)
    write_dicom(train / f"{B}.dcm", 1, bits=8, PatientSex="M", PatientAge="019Y", ViewPosition="AP", PatientID=B)
    write_dicom(train / f"{C}.dcm", 2, bits=8, PatientSex="M", PatientAge="412", ViewPosition="AP", PatientID=C)
    write_dicom(test / f"{D}.dcm", 3, bits=8, PatientSex="F", PatientAge="33", ViewPosition="PA", PatientID=D)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "rsna")
    return tmp_path / "rsna"


def test_images_are_there_once_and_views_sex_and_age_come_from_the_headers(root):
    columns = ("path", "subject_id", "view", "view_position", "sex", "age")
    assert images_of(open_release(root), *columns) == {
        A: (f"stage_2_train_images/{A}.dcm", A, "frontal", "PA", "F", "51"),
        B: (f"stage_2_train_images/{B}.dcm", B, "frontal", "AP", "M", "19"),
        C: (f"stage_2_train_images/{C}.dcm", C, "frontal", "AP", "M", ""),  # 412 years, as a few files say
        D: (f"stage_2_test_images/{D}.dcm", D, "frontal", "PA", "F", "33"),
    }


def test_an_image_with_a_box_has_pneumonia_and_test_images_are_unknown(root):
    release = open_release(root)
    assert [(table.name, table.findings) for table in release.labels] == [
        ("rsna-pneumonia", ("Pneumonia",)),
        ("rsna-classes", ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")),
    ]
    assert labels_of(release, "rsna-pneumonia") == {
        A: ("train", "0"),
        B: ("train", "1"),
        C: ("train", "0"),
        D: ("test", "."),
    }
    assert labels_of(release, "rsna-classes") == {
        A: ("train", "010"),
        B: ("train", "100"),
        C: ("train", "001"),
        D: ("test", "..."),
    }


def test_the_overlap_with_chestx_ray14_is_said(root):
    assert any("ChestX-ray14" in note for note in open_release(root).notes)


def test_pixels_are_those_of_the_frames(root, tmp_path):
    _, pixels = packed(open_release(root), tmp_path / "pack")
    assert numbers_of(pixels) == {A: 0, B: 1, C: 2, D: 3}


def test_tables_of_stage_1_over_images_of_stage_2_find_their_images(root):
    for name in (
        "stage_2_train_labels.csv.zip",
        "stage_2_detailed_class_info.csv.zip",
        "stage_2_sample_submission.csv",
    ):
        (root / name).unlink()
    write_text(root / "stage_1_train_labels.csv", "\n".join(LABELS.splitlines()[:-1]))
    write_text(root / "stage_1_sample_submission.csv", SUBMISSION.replace(D, C))  # labelled in stage 2 only
    release = open_release(root)
    assert labels_of(release) == {A: ("train", "0"), B: ("train", "1"), C: ("test", ".")}
    assert images_of(release, "path")[C] == (f"stage_2_train_images/{C}.dcm",)


def test_an_image_in_the_training_and_the_test_table_is_refused(root):
    write_text(root / "stage_2_sample_submission.csv", SUBMISSION.replace(D, C))
    with pytest.raises(UserError, match=f"csv.zip are of '{C}', and split is 'test' .* 'train'"):
        open_release(root)


def test_without_any_image_one_line_says_so(root):
    for file in root.glob("stage_2_*_images/*.dcm"):
        file.unlink()
    with pytest.raises(UserError, match=rf"none of the 4 images .* the first is '{A}\.\*'; put the images there"):
        open_release(root)
