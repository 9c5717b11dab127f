"""CheXpert Plus: labels in JSON lines, PNG or DICOM where the table says JPEG, and reports of many lines."""

import json

import pytest

from shards.releases.open import open_release, read_labels
from tests.shards.releases.declared import test_chexpert
from tests.shards.releases.declared.layout import (
    images_of,
    labels_of,
    numbers_of,
    packed,
    write_dicom,
    write_images,
    write_text,
)

STEMS = (
    "train/patient40001/study5/view1_frontal",
    "train/patient40001/study6/view1_frontal",
    "train/patient40002/study1/view2_lateral",
    "valid/patient64541/study1/view1_frontal",
)
BOTH = [f"{stem}.jpg,{stem}.dcm" for stem in STEMS]
COLUMNS_BEFORE = "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order"
TABLE = f"""
{COLUMNS_BEFORE},report,section_findings,section_impression,age,sex,race,split
{BOTH[0]},Frontal,AP,patient40001,5,"NARRATIVE:
Chest, 1 view. ""Lines"" in place.
IMPRESSION: edema",,"1. Edema, worse.
2. Lines unchanged.",61.0,Female,Other,train
{BOTH[1]},Frontal,PA,patient40001,6,"NARRATIVE: clear",Clear lungs.,,61.0,Female,Other,train
{BOTH[2]},Lateral,,patient40002,1,"IMPRESSION: mass?",,Possible mass.,89.0,Male,White,train
{BOTH[3]},Frontal,LL,patient64541,1,"IMPRESSION: none",,Nothing acute.,,Unknown,,valid
"""
IDS = STEMS
PATHS = tuple(f"PNG/{stem}.png" for stem in STEMS)
# in the order of the files: No Finding is last there, and first in the label release
IN_FILE = [
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
    "No Finding",
]
IMPRESSION = ("....1.......1.", ".............1", "..1?..........", ".............1")
REPORT = ("....1?......1.", "0............1", "..1?..........", ".............1")
IMAGES = dict(
    zip(
        IDS,
        (
            ("patient40001/study5", "patient40001", "frontal", "AP", "F", "61"),
            ("patient40001/study6", "patient40001", "frontal", "PA", "F", "61"),
            ("patient40002/study1", "patient40002", "lateral", "Lateral", "M", "89"),
            ("patient64541/study1", "patient64541", "frontal", "LL", "", ""),
        ),
        strict=True,
    )
)
COLUMNS = ("study_id", "subject_id", "view", "view_position", "sex", "age")
UNKNOWN = "." * 14


def json_lines(path, signs):
    """Shuffled, as another order than the table's must not matter."""
    values = {"1": 1.0, "0": 0.0, "?": -1.0, ".": None}
    rows = [
        {"path_to_image": f"{stem}.jpg", **{name: values[sign] for name, sign in zip(IN_FILE, line, strict=True)}}
        for stem, line in zip(STEMS, signs, strict=True)
    ]
    write_text(path, "\n".join(json.dumps(row) for row in reversed(rows)))


def write(root):
    write_text(root / "df_chexpert_plus_240401.csv", TABLE)
    json_lines(root / "chexbert_labels" / "impression_fixed.json", IMPRESSION)
    json_lines(root / "chexbert_labels" / "report_fixed.json", REPORT)
    write_images(root, *PATHS)


def test_images_with_the_suffix_of_the_folder_they_are_in(tmp_path):
    write(tmp_path)
    release = open_release(tmp_path)
    assert release.name == "chexpert-plus"
    assert images_of(release, *COLUMNS) == IMAGES
    assert release.images["race"].tolist() == ["Other", "Other", "White", ""]
    assert release.images["path"].tolist() == list(PATHS)
    assert any("CheXpert has the same patients" in note for note in release.notes)


def test_a_report_without_the_section_has_no_labels_of_it(tmp_path):
    """CheXbert wrote No Finding = 1 for the second report, which has no impression."""
    write(tmp_path)
    release = open_release(tmp_path)
    assert [labels.name for labels in release.labels] == ["chexbert-impression", "chexbert-report"]
    assert all(labels.findings == ("No Finding", *IN_FILE[:-1]) for labels in release.labels)
    read = labels_of(release, "chexbert-impression")
    assert read.pop(IDS[1], ("train", UNKNOWN)) == ("train", UNKNOWN)
    assert read == {
        IDS[0]: ("train", ".....1.......1"),
        IDS[2]: ("train", "...1?........."),
        IDS[3]: ("dev", "1............."),
    }
    assert labels_of(release, "chexbert-report") == {
        IDS[0]: ("train", ".....1?......1"),
        IDS[1]: ("train", "10............"),
        IDS[2]: ("train", "...1?........."),
        IDS[3]: ("dev", "1............."),
    }
    said = "1 image without labels: section_impression is blank"
    assert said in release.labels[0].notes and not any("without labels" in note for note in release.labels[1].notes)


def test_pixels_of_the_pngs(tmp_path):
    write(tmp_path / "release")
    _, pixels = packed(open_release(tmp_path / "release"), tmp_path / "pack")
    assert numbers_of(pixels) == {image: number for number, image in enumerate(IDS)}


@pytest.mark.parametrize("place", ["PNG/PNG/{}.png", "{}.png", "{}.jpg", "CheXpert-v1.0/{}.jpg"])
def test_other_places_of_the_images(tmp_path, place):
    write_text(tmp_path / "df_chexpert_plus_240401.csv", TABLE)
    write_images(tmp_path, *map(place.format, STEMS))
    release = open_release(tmp_path)
    assert release.images["path"].tolist() == [place.format(stem) for stem in STEMS]
    assert images_of(release, *COLUMNS) == IMAGES


def test_without_the_files_of_labels_there_are_pixels_only_and_that_is_said(tmp_path):
    write_text(tmp_path / "df_chexpert_plus_240401.csv", TABLE)
    write_images(tmp_path, *PATHS)
    release = open_release(tmp_path)
    assert not release.labels
    assert any("impression_fixed.json" in note for note in release.notes)


def test_labels_of_chexpert_plus_fit_images_that_were_packed_from_chexpert(tmp_path):
    write(tmp_path / "plus")
    test_chexpert.write(tmp_path / "chexpert")
    images = open_release(tmp_path / "chexpert").images
    impression, report = read_labels("chexpert", [tmp_path / "plus"], images, "chexpert-plus")
    assert (impression.name, report.name) == ("chexbert-impression", "chexbert-report")
    assert impression.table.index.tolist() == ["valid/patient64541/study1/view1_frontal"]
    assert impression.table["split"].tolist() == ["dev"] and impression.table["No Finding"].tolist() == [1]


@pytest.mark.parametrize("place", ["DICOM/Uncompressed/{}.dcm", "DICOM/{}.dcm"])
def test_dicoms_are_inverted_by_their_own_tag_and_say_who_made_them(tmp_path, place):
    """About one in twenty lacks HighBit, and the windows of some that are MONOCHROME1 are off centre."""
    write_text(tmp_path / "release" / "df_chexpert_plus_240401.csv", TABLE)
    odd = {1: {"HighBit": None}, 2: {"WindowCenter": 300, "WindowWidth": 90}}
    for number, stem in enumerate(STEMS):
        photometric, tags = "MONOCHROME1" if number == 2 else "MONOCHROME2", odd.get(number, {})
        path = tmp_path / "release" / place.format(stem)
        write_dicom(path, number, photometric, Manufacturer=f"Maker {number}", **tags)
    release = open_release(tmp_path / "release")
    assert release.images["manufacturer"].tolist() == [f"Maker {number}" for number in range(4)]
    _, pixels = packed(release, tmp_path / "pack")
    assert numbers_of(pixels) == {IDS[0]: 0, IDS[1]: 1, IDS[2]: ~2, IDS[3]: 3}
