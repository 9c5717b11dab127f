"""Headers of DICOMs: what they say where the tables say nothing, and never more."""

import pandas as pd

from shards.releases.open import open_release
from shards.releases.tags import with_tags
from tests.shards.releases.declared.layout import images_of, numbers_of, packed, write_dicom, write_images
from tests.shards.releases.declared.own import PLAIN, opened, refused, write

TAGS = {"PatientSex": "F", "PatientAge": "045Y", "ViewPosition": "PA", "Manufacturer": "Agfa", "PatientID": "p1"}


def table(**columns):
    return pd.DataFrame({"image_id": list("abc"), "path": ["a.dcm", "b.dcm", "c.png"], **columns}, dtype="str")


def test_headers_fill_what_is_blank_and_the_table_wins(tmp_path):
    write_dicom(tmp_path / "a.dcm", 0, **TAGS)
    (tmp_path / "b.dcm").write_bytes(b"broken")
    images = table(sex=["M", "", ""], age=["", "", "7"], subject_id=["", "p2", "p3"])
    found, notes = with_tags(images, tmp_path, ("subject_id", "sex", "age", "manufacturer"))
    assert found["sex"].tolist() == ["M", "", ""] and found["age"].tolist() == ["45", "", "7"]
    assert found["subject_id"].tolist() == ["p1", "p2", "p3"] and found["manufacturer"].tolist() == ["Agfa", "", ""]
    assert notes == (
        "headers of 1 DICOM file read, which give subject_id 1, sex 0, age 1, manufacturer 1",
        "1 file is without a header that can be read",
        "sex: the headers of 1 file say another than the tables, which count",
    )
    assert images["sex"].tolist() == ["M", "", ""]  # the caller's is as it was


def test_no_header_is_read_where_nothing_is_lacking(tmp_path):
    images = table(sex=["M", "F", ""])
    assert with_tags(images, tmp_path / "nowhere", ("sex",))[1] == ()


def test_words_for_a_missing_id_are_no_patient(tmp_path):
    for name, patient in (("a", "UNKNOWN"), ("b", "007")):
        write_dicom(tmp_path / f"{name}.dcm", 0, PatientID=patient)
    found, notes = with_tags(table(), tmp_path, ("subject_id",))
    assert found["subject_id"].tolist() == ["a", "007", "c"]
    assert "subject_id of 2 images is not known: each has its own" in notes


def test_an_image_of_no_known_patient_is_not_given_to_a_patient_of_its_id(tmp_path):
    write_dicom(tmp_path / "a.dcm", 0, PatientID="")
    write_dicom(tmp_path / "b.dcm", 0, PatientID="a")
    found, _ = with_tags(table(), tmp_path, ("subject_id",))
    assert found["subject_id"].tolist() == ["image-a", "a", "image-c"]


def test_a_folder_of_dicoms_without_suffixes(tmp_path):
    root = tmp_path / "films"
    for number, name in enumerate(("1.2.3", "x/4.5.6")):
        write_dicom(root / name, number, **{**TAGS, "StudyInstanceUID": f"1.9.{number}"})
    (root / "LICENSE").write_text("none")
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    release = open_release(root)
    assert images_of(release, "study_id", "subject_id", "view", "sex", "age") == {
        "1.2.3": ("1.9.0", "p1", "frontal", "F", "45"),
        "4.5.6": ("1.9.1", "p1", "frontal", "F", "45"),
    }
    assert any("and not read: 2 files, as 'DICOMDIR'" in note for note in release.notes)
    dataset, pixels = packed(release, tmp_path / "pack")
    assert len(pixels) == 2 and numbers_of(pixels).keys() == {"1.2.3", "4.5.6"}
    assert dataset.catalog["sex"].tolist() == ["F", "F"] and dataset.catalog["age"].tolist() == [45.0, 45.0]


def test_dicoms_without_a_suffix_are_images_beside_others(tmp_path):
    root = tmp_path / "films"
    write_dicom(root / "1.2.3", 0)
    (root / "notes").write_text("no image")
    write_images(root, "a.png")
    assert open_release(root).images["image_id"].tolist() == ["1.2.3", "a"]


def test_a_declaration_takes_patients_from_headers(tmp_path):
    declaration = PLAIN.replace(
        'path = "file"', 'path = "file"\nsubject_id = "p"\ntags = ["subject_id", "view_position"]'
    )
    release = write(tmp_path, declaration, t__csv="id,file,p\na,a.dcm,\nb,b.dcm,p9")
    write_dicom(release / "a.dcm", 0, **TAGS)
    write_dicom(release / "b.dcm", 1, **{**TAGS, "ViewPosition": "LL"})
    found = opened(tmp_path, declaration)
    assert images_of(found, "subject_id", "view") == {"a": ("p1", "frontal"), "b": ("p9", "lateral")}
    assert "subject_id: the headers of 1 file say another than the tables, which count" in found.notes
    without = declaration.replace("tags = ", "depth = 2 # ")
    assert "column 'p' is blank in line 2" in refused(opened, tmp_path, without)
