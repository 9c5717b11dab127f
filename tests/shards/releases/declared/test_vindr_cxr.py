"""VinDr-CXR: three readers in rows of their own, a finding of two spellings, and MONOCHROME1 among the DICOMs."""

import shutil

import pytest

from shards.errors import UserError
from shards.releases.open import open_release
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_dicom, write_text

FINDINGS = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
    *("Other diseases", "No finding"),
)
A, B, C = "50a418190bc3fb1ef1633bf9678929b3", "000434271f63a053c4128a0ba6352c7f", "21a10246a5ec7af151081d0cd6d65dc9"
D, E = "002a34c58c5b758217ed1f584ccbcfe9", "004f33259ee4aef671c2b95d54e4be68"


def row(image: str, reader: str, *positive: str) -> str:
    assert set(positive) <= set(FINDINGS)
    return ",".join([image, *([reader] if reader else []), *("1" if name in positive else "0" for name in FINDINGS)])


def signs(*positive: str) -> str:
    return "".join("1" if name in positive else "0" for name in FINDINGS)


def write(root):
    write_text(
        root / "annotations" / "image_labels_train.csv",
        "\n".join(
            [
                ",".join(["image_id", "rad_id", *FINDINGS]),
                row(A, "R11", "Cardiomegaly"),
                row(A, "R7", "Cardiomegaly", "Aortic enlargement"),
                row(A, "R10", "No finding"),
                row(B, "R9", "No finding"),
                row(B, "R17", "No finding"),
                row(C, "R8", "Other diseases"),
                row(B, "R2", "No finding"),  # rows of an image need not be together
                row(C, "R9", "Other diseases", "Pneumonia"),
                row(C, "R10", "Other diseases"),
            ]
        ),
    )
    write_text(
        root / "annotations" / "image_labels_test.csv",
        "\n".join(
            [
                ",".join(["image_id", *FINDINGS]).replace("Other diseases", "Other disease"),
                row(D, "", "Other diseases", "Lung tumor"),
                row(E, "", "No finding"),
            ]
        ),
    )
    write_text(root / "annotations" / "annotations_train.csv", "image_id,rad_id,class_name,x_min,y_min,x_max,y_max")
    write_dicom(root / "train" / f"{A}.dicom", 0, PatientSex="M", PatientAge="045Y", Manufacturer="One")
    write_dicom(root / "train" / f"{B}.dicom", 1, PatientSex="F", PatientAge="000Y")
    write_dicom(root / "train" / f"{C}.dicom", 2, "MONOCHROME1", PatientSex="O")
    write_dicom(root / "test" / f"{D}.dicom", 3, "MONOCHROME1", PatientSex="F", PatientAge="071Y")
    write_dicom(root / "test" / f"{E}.dicom", 4, bits=14)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "vindr-cxr")
    return tmp_path / "vindr-cxr"


def test_images_views_and_splits(root):
    release = open_release(root)
    assert release.name == "vindr-cxr"
    assert images_of(release, "path", "subject_id", "study_id", "view", "view_position") == {
        A: (f"train/{A}.dicom", A, A, "frontal", "PA"),
        B: (f"train/{B}.dicom", B, B, "frontal", "PA"),
        C: (f"train/{C}.dicom", C, C, "frontal", "PA"),
        D: (f"test/{D}.dicom", D, D, "frontal", "PA"),
        E: (f"test/{E}.dicom", E, E, "frontal", "PA"),
    }


def test_sex_age_and_manufacturer_come_from_the_headers(root):
    assert images_of(open_release(root), "sex", "age", "manufacturer") == {
        A: ("M", "45", "One"),
        B: ("F", "0", ""),
        C: ("", "", ""),
        D: ("F", "71", ""),
        E: ("", "", ""),
    }


def test_labels_are_what_most_readers_say_and_both_spellings_are_one_finding(root):
    release = open_release(root)
    assert release.labels[0].findings == FINDINGS
    assert labels_of(release) == {
        A: ("train", signs("Cardiomegaly")),  # one of three saw the aorta, and one no finding
        B: ("train", signs("No finding")),
        C: ("train", signs("Other diseases")),
        D: ("test", signs("Other diseases", "Lung tumor")),
        E: ("test", signs("No finding")),
    }


def test_disagreement_is_counted_and_may_be_settled_otherwise(root):
    (labels,) = open_release(root).labels
    said = "3 images with several readings: they differ on 2 (66.7%), and are joined by majority (--join-rows)"
    assert said in labels.notes
    release = open_release(root, join_rows="any")
    assert labels_of(release, "vindr-cxr-any") == {
        A: ("train", signs("Aortic enlargement", "Cardiomegaly", "No finding")),
        B: ("train", signs("No finding")),
        C: ("train", signs("Other diseases", "Pneumonia")),
        D: ("test", signs("Other diseases", "Lung tumor")),
        E: ("test", signs("No finding")),
    }


def test_pixels_are_those_of_the_files(root, tmp_path):
    dataset, pixels = packed(open_release(root), tmp_path / "pack")
    assert numbers_of(pixels) == {A: 0, B: 1, C: ~2, D: ~3, E: 4}
    assert dataset.info["counts"]["packed"] == 5


def test_test_images_alone_are_read(root):
    (root / "annotations" / "image_labels_train.csv").unlink()
    release = open_release(root)
    assert labels_of(release) == {
        D: ("test", signs("Other diseases", "Lung tumor")),
        E: ("test", signs("No finding")),
    }


def test_tables_at_the_top_are_read_alike(root):
    expected = labels_of(open_release(root))
    for path in list((root / "annotations").iterdir()):
        path.rename(root / path.name)
    assert labels_of(open_release(root)) == expected


def test_children_of_vindr_pcxr_are_not_read_as_these(root):
    table = f"image_id,rad_ID,No finding,Bronchitis\n{A},R1,0,1"
    for split in ("train", "test"):
        write_text(root / "annotations" / f"image_labels_{split}.csv", table)
    with pytest.raises(UserError, match="not a release that cxrdali reads"):
        open_release(root)


def test_half_of_the_images_packs_without_the_others(root, tmp_path):
    shutil.rmtree(root / "test")
    dataset, pixels = packed(open_release(root), tmp_path / "pack")
    assert set(pixels) == {A, B, C} and dataset.info["counts"]["rejected"] == {"absent": 2}


def test_the_folder_above_is_told_which_folder_it_is(root):
    with pytest.raises(UserError, match=f"{root} in it is one, give that with --source"):
        open_release(root.parent)
