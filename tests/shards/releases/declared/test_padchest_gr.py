"""PadChest-GR: a row a finding, patients beyond 64 bits, 16-bit images, and PadChest's own table beside it or not."""

import pytest

from shards.releases.open import open_release
from tests.shards.releases.declared.layout import (
    images_of,
    labels_of,
    numbers_of,
    packed,
    write_images,
    write_text,
)

A, B = "106997070894779966614346591942916625787_fsxv2a.png", "251488034557732338959601580328898734705_wigcpj.png"
C = "216840111366964013076187734852011291090445391_00-196-188.png"
FOLDER = "Padchest_GR_files/PadChest_GR"
P1, P2 = "190000000000000000000000000000000000001", "190000000000000000000000000000000000002"
COLUMNS = (
    *("StudyID", "ImageID", "label", "boxes_count", "locations", "sentence_en", "study_is_benchmark", "split"),
    *("PatientID", "PatientBirth", "PatientSex_DICOM", "StudyDate_DICOM", "PatientAge", "label_group", "Year"),
)
TABLE = f"""
    {",".join(COLUMNS)}
    S1,{A},cardiomegaly,1,"['cardiac']",Cardiomegaly.,True,train,{P1},1950,F,20140915,64,cardiomegaly,2014
    S1,{A},pleural effusion,2,"['pleural', 'right']","Effusion, right.",True,train,{P1},1950,F,20140915,64,pleural,2014
    S1,{A},pleural effusion,1,"['left']","Effusion, left.",True,train,{P1},1950,F,20140915,64,pleural,2014
    S2,{B},Normal,0,[],,True,validation,{P2},1931,M,20120101,81.0,Normal,2012
    S3,{C},nodule,1,[],Nodule.,True,test,{P2}3,,,20120101,,nodule,2012
"""
PADCHEST = f"""
    ,ImageID,StudyID,PatientID,Projection,PhotometricInterpretation_DICOM,Labels
    0,{A},S1,{P1},PA,MONOCHROME2,['cardiomegaly']
    1,{B},S2,{P2},AP_horizontal,MONOCHROME1,['normal']
    2,{C},S3,{P2}3,AP,MONOCHROME2,
    3,other.png,S4,{P2}4,L,MONOCHROME2,
"""


def write(root):
    write_text(root / "master_table.csv", TABLE)
    write_images(root, *(f"{FOLDER}/{image}" for image in (A, B, C)), bits=16)
    write_images(root, "PadChest_GR_progression_prior_studies/prior.png", first=9, bits=16)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "padchest-gr")
    return tmp_path / "padchest-gr"


def test_images_patients_sex_and_age_keep_every_digit(root):
    release = open_release(root)
    assert release.name == "padchest-gr"
    assert images_of(release, "path", "study_id", "subject_id", "view", "sex", "age") == {
        A: (f"{FOLDER}/{A}", "S1", P1, "frontal", "F", "64"),
        B: (f"{FOLDER}/{B}", "S2", P2, "frontal", "M", "81"),
        C: (f"{FOLDER}/{C}", "S3", f"{P2}3", "frontal", "", ""),
    }


def test_findings_are_those_that_occur_and_absent_ones_are_negative(root):
    release = open_release(root)
    assert release.labels[0].findings == ("Normal", "cardiomegaly", "nodule", "pleural effusion")
    assert labels_of(release) == {A: ("train", "0101"), B: ("dev", "1000"), C: ("test", "0010")}


def test_that_its_labels_are_not_for_tuning_is_said(root):
    assert any("not for tuning" in note for note in open_release(root).notes)


def test_padchests_own_table_gives_views_and_monochrome1(root, tmp_path):
    write_text(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", PADCHEST)
    release = open_release(root)
    assert release.name == "padchest-gr"
    assert images_of(release, "view", "view_position") == {
        A: ("frontal", "PA"),
        B: ("frontal", "AP_horizontal"),
        C: ("frontal", "AP"),
    }
    assert labels_of(release) == {A: ("train", "0101"), B: ("dev", "1000"), C: ("test", "0010")}
    _, pixels = packed(release, tmp_path / "pack")
    assert numbers_of(pixels) == {A: 0, B: ~1, C: 2}


def test_a_zipped_table_reads_alike(root):
    before = open_release(root)
    (root / "master_table.csv").unlink()
    write_text(root / "master_table.csv.zip", TABLE)
    assert labels_of(open_release(root)) == labels_of(before)
