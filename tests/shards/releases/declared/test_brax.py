"""BRAX: one table with the paths of PNGs and DICOMs, bins of ages, views of many names, numbers as manufacturers."""

import pytest

from shards.releases.open import open_release
from tests.shards.releases.declared.layout import (
    images_of,
    labels_of,
    numbers_of,
    packed,
    write_dicom,
    write_images,
    write_text,
)

FINDINGS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Lesion,Lung Opacity,Edema,Consolidation,"
    "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
IDS = (
    "id_00a1/Study_11.21/Series_31.41/image-1",
    "id_00a1/Study_11.21/Series_31.41/image-2",
    "id_00a1/Study_11.22/Series_31.42/image-1",
    "id_00b2/Study_12.21/Series_32.41/image-1",
    "id_00b2/Study_12.21/Series_32.41/image-2",
    "id_00c3/Study_13.21/Series_33.41/image-1",
    "id_00c3/Study_13.21/Series_33.41/image-2",
    "id_00d4/Study_14.21/Series_34.41/image-1",
)
# patient, sex, age, accession number, 14 findings, view, manufacturer: the number 700 is of two patients
ROWS = (
    "00a1,F,55,700,2015-01-02,1.0,,,,,,,,,,,,,1.0,PA,32,32,2",
    "00a1,F,55,700,2015-01-02,1.0,,,,,,,,,,,,,1.0,L,32,32,2",
    "00a1,F,60,701,2019-01-02,,,-1.0,,1.0,,0.0,,,,,,,,RL,32,32,2",
    "00b2,M,85 or more,700,2015-01-03,,0.0,1.0,,,,,,,,-1.0,,,,AP,32,32,1",
    "00b2,M,85 or more,700,2015-01-03,,0.0,1.0,,,,,,,,-1.0,,,,AP LLD,32,32,1",
    "00c3,O,0,702,2015-01-04,,,,,,,,,,,,,1.0,,LT-DECUB,32,32,",
    "00c3,O,0,702,2015-01-04,,,,,,,,,,,,,1.0,,RLO,32,32,",
    "00d4,M,,703,2015-01-05,1.0,,,,,,,,,,,,,,,32,32,5",
)
IMAGES = dict(
    zip(
        IDS,
        (
            ("00a1_700", "00a1", "frontal", "PA", "F", "55", "2"),
            ("00a1_700", "00a1", "lateral", "L", "F", "55", "2"),
            ("00a1_701", "00a1", "lateral", "RL", "F", "60", "2"),
            ("00b2_700", "00b2", "frontal", "AP", "M", "85", "1"),
            ("00b2_700", "00b2", "frontal", "AP LLD", "M", "85", "1"),
            ("00c3_702", "00c3", "other", "LT-DECUB", "", "0", ""),
            ("00c3_702", "00c3", "other", "RLO", "", "0", ""),
            ("00d4_703", "00d4", "other", "", "M", "", "5"),
        ),
        strict=True,
    )
)
LABELS = dict(
    zip(
        IDS,
        (
            ("train", "1............1"),
            ("train", "1............1"),
            ("train", "..?.1.0......."),
            ("train", ".01.......?..."),
            ("train", ".01.......?..."),
            ("train", "............1."),
            ("train", "............1."),
            ("train", "1............."),
        ),
        strict=True,
    )
)
COLUMNS = ("study_id", "subject_id", "view", "view_position", "sex", "age", "manufacturer")
PATHS = tuple(f"images/{image}.png" for image in IDS)


def write_tables(root, name="master_spreadsheet_update.csv"):
    """Its first column is the index that pandas saved."""
    before = "DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate"
    lines = [f",{before},{FINDINGS},ViewPosition,Rows,Columns,Manufacturer"]
    for number, (image, row) in enumerate(zip(IDS, ROWS, strict=True)):
        lines.append(f"{number},Anonymized_DICOMs/{image}.dcm,images/{image}.png,{row}")
    write_text(root / name, "\n".join(lines))


def write(root):
    write_tables(root)
    write_images(root, *PATHS, bits=16)


@pytest.mark.parametrize("name", ["master_spreadsheet_update.csv", "master_spreadsheet.csv"])
def test_images_and_labels(tmp_path, name):
    write_tables(tmp_path, name)
    write_images(tmp_path, *PATHS, bits=16)
    release = open_release(tmp_path)
    assert release.name == "brax"
    assert images_of(release, *COLUMNS) == IMAGES
    assert ",".join(release.labels[0].findings) == FINDINGS
    assert labels_of(release) == LABELS
    said = "column 'study_id' has studies of the same id in two patients: theirs are PATIENT_STUDY"
    assert said in release.notes
    assert "2 ages are given as a bin, as '85 or more': its lower bound is taken" in release.notes


def test_pixels_of_pngs_of_16_bits_and_columns_of_the_packed_dataset(tmp_path):
    write(tmp_path / "release")
    dataset, pixels = packed(open_release(tmp_path / "release"), tmp_path / "pack")
    assert numbers_of(pixels) == {image: number for number, image in enumerate(IDS)}
    catalog = dataset.catalog.set_index("image_id").loc[list(IDS)]
    assert catalog["sex"].fillna("").tolist() == [values[4] for values in IMAGES.values()]
    assert catalog["age"].fillna(-1).tolist() == [55, 55, 60, 85, 85, 0, 0, -1]
    assert catalog["manufacturer"].fillna("").tolist() == [values[6] for values in IMAGES.values()]


def test_pngs_are_read_where_both_kinds_are(tmp_path):
    write(tmp_path)
    for image in IDS:
        write_text(tmp_path / "Anonymized_DICOMs" / f"{image}.dcm", "not looked at")
    release = open_release(tmp_path)
    assert release.images["path"].tolist() == list(PATHS)
    assert "paths: PngPath" in release.notes


def test_dicoms_where_they_are_instead_of_pngs(tmp_path):
    write_tables(tmp_path / "release")
    for number, image in enumerate(IDS):
        path = tmp_path / "release" / "Anonymized_DICOMs" / f"{image}.dcm"
        write_dicom(path, number, "MONOCHROME1" if number == 3 else "MONOCHROME2")
    release = open_release(tmp_path / "release")
    assert images_of(release, *COLUMNS) == IMAGES and labels_of(release) == LABELS
    assert release.images["path"].tolist() == [f"Anonymized_DICOMs/{image}.dcm" for image in IDS]
    _, pixels = packed(release, tmp_path / "pack")
    assert numbers_of(pixels) == {image: ~number if number == 3 else number for number, image in enumerate(IDS)}
