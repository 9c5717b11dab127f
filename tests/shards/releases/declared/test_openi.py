"""OpenI / IU X-ray: images in one table, reports with their problems in another, joined by uid."""

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

PROJECTIONS = """
uid,filename,projection
1,1_IM-0001-4001.dcm.png,Frontal
1,1_IM-0001-3001.dcm.png,Lateral
2,2_IM-0652-1001.dcm.png,Frontal
5,5_IM-2117-1003002.dcm.png,Lateral
12,12_IM-0133-1001.dcm.png,Frontal
40,40_IM-2050-1001.dcm.png,Frontal
"""
# 40 has no report, 999 no image, and nobody has indexed the report of 12: 12 and 40 have no labels, not blank ones,
# which training would count as negative
REPORTS = """
uid,MeSH,Problems,image,indication,comparison,findings,impression
1,normal,normal,Xray Chest PA and Lateral,Positive TB test,None.,"Clear, no effusion.",Normal.
2,Cardiomegaly/borderline;Pulmonary Artery/enlarged,Cardiomegaly;Pulmonary Artery,"Chest, 2 views",,None.,,
5,"Opacity/lung/base;Pulmonary Disease, Chronic Obstructive","Opacity;Pulmonary Disease, Chronic Obstructive",Chest,,,,
12,No Indexing,No Indexing,Chest,,,,
999,normal,normal,Chest,,,,
"""
FILES = tuple(line.split(",")[1] for line in PROJECTIONS.split()[1:])
PATHS = tuple(f"images/images_normalized/{name}" for name in FILES)
IDS = tuple(name.removesuffix(".dcm.png") for name in FILES)
COLUMNS = ("study_id", "subject_id", "view", "view_position")
IMAGES = dict(
    zip(
        IDS,
        (
            ("1", "1", "frontal", "Frontal"),
            ("1", "1", "lateral", "Lateral"),
            ("2", "2", "frontal", "Frontal"),
            ("5", "5", "lateral", "Lateral"),
            ("12", "12", "frontal", "Frontal"),
            ("40", "40", "frontal", "Frontal"),
        ),
        strict=True,
    )
)
FINDINGS = ("Cardiomegaly", "Opacity", "Pulmonary Artery", "Pulmonary Disease, Chronic Obstructive")
LABELS = {
    IDS[0]: ("train", "0000"),
    IDS[1]: ("train", "0000"),
    IDS[2]: ("train", "1010"),
    IDS[3]: ("train", "0101"),
}


def write_tables(root):
    write_text(root / "indiana_projections.csv", PROJECTIONS)
    write_text(root / "indiana_reports.csv", REPORTS)


def write(root):
    write_tables(root)
    write_images(root, *PATHS)


def test_images_and_problems(tmp_path):
    write(tmp_path)
    release = open_release(tmp_path)
    assert release.name == "openi"
    assert images_of(release, *COLUMNS) == IMAGES
    assert release.images["path"].tolist() == list(PATHS)
    assert (release.labels[0].name, release.labels[0].findings) == ("openi-problems", FINDINGS)
    assert labels_of(release) == LABELS


def test_reports_that_nobody_indexed_and_those_without_an_image_are_counted(tmp_path):
    write(tmp_path)
    release = open_release(tmp_path)
    notes = [*release.notes, *release.labels[0].notes]
    assert any("No Indexing" in note and "1 " in note for note in notes), notes
    assert any("indiana_reports.csv" in note and "1 " in note for note in notes), notes


def test_reports_of_which_none_was_indexed_leave_pixels_without_labels(tmp_path):
    write(tmp_path / "release")
    write_text(tmp_path / "release" / "indiana_reports.csv", "uid,Problems\n1,No Indexing\n2,No Indexing")
    release = open_release(tmp_path / "release")
    assert not release.labels
    assert "labels left out, as no image has any: openi-problems" in release.notes
    assert len(packed(release, tmp_path / "pack")[1]) == len(IDS)


def test_pixels(tmp_path):
    write(tmp_path / "release")
    _, pixels = packed(open_release(tmp_path / "release"), tmp_path / "pack")
    assert numbers_of(pixels) == {image: number for number, image in enumerate(IDS)}


@pytest.mark.parametrize("place", ["images_normalized/{}", "images/{}", "{}"])
def test_other_places_of_the_images(tmp_path, place):
    write_tables(tmp_path)
    write_images(tmp_path, *map(place.format, FILES))
    release = open_release(tmp_path)
    assert release.images["path"].tolist() == [place.format(name) for name in FILES]
    assert images_of(release, *COLUMNS) == IMAGES


@pytest.mark.parametrize("place", ["", "images", "NLMCXR_dcm"])
def test_openis_own_dicoms_in_a_folder_a_patient(tmp_path, place):
    """Half of them are MONOCHROME1, and what the tables leave out is in their tags."""
    write_tables(tmp_path / "release")
    for number, image in enumerate(IDS):
        path = tmp_path / "release" / place / image.split("_")[0] / f"{image}.dcm"
        write_dicom(path, number, f"MONOCHROME{1 + number % 2}", PatientSex="F", PatientAge="045Y")
    release = open_release(tmp_path / "release")
    assert images_of(release, "view", "sex", "age") == {
        image: (values[2], "F", "45") for image, values in IMAGES.items()
    }
    assert labels_of(release) == LABELS
    _, pixels = packed(release, tmp_path / "pack")
    assert numbers_of(pixels) == {image: number if number % 2 else ~number for number, image in enumerate(IDS)}
