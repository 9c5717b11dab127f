"""A folder of images without any table: ids from names, no labels; never a part of a release."""

import numpy as np
import pytest

from shards.packing.attach import attach
from shards.releases.folder import recognises
from shards.releases.open import open_release
from tests.dicom_files import dicom
from tests.shards.releases.declared.layout import images_of, numbers_of, packed, write_images, write_text
from tests.shards.releases.declared.own import refused


def test_images_in_nested_folders_are_packed_under_their_names(tmp_path):
    root = tmp_path / "films"
    write_images(root, "a.png", "x/b.JPG", "x/y/c.jpeg")
    (root / "README.md").write_text("hello")
    (root / ".hidden.png").touch()
    release = open_release(root)
    assert (release.name, release.labels, release.inputs) == ("folder", (), ())
    assert images_of(release, "study_id", "subject_id", "view", "path") == {
        "a": ("a", "a", "other", "a.png"),
        "b": ("b", "b", "other", "x/b.JPG"),
        "c": ("c", "c", "other", "x/y/c.jpeg"),
    }
    notes = " ".join(release.notes)
    assert "no image by their names, and not read: 1 file, as 'README.md'" in notes
    assert "no table: ids are from the files' names, and there are no labels" in notes
    assert "no patient: every image counts as a patient of its own" in notes
    dataset, pixels = packed(release, tmp_path / "pack")
    assert numbers_of(pixels) == {"a": 0, "b": 1, "c": 2} and dataset.label_names == []


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (("a.png", "x/b.png"), ["a", "b"]),
        (("x/a.png", "y/a.png"), ["x_a", "y_a"]),
        (("x/a.png", "y/a.png", "x_a.png"), ["x/a", "x_a", "y/a"]),
        (("a.png", "a.jpg"), ["a.jpg", "a.png"]),
    ],
)
def test_ids_are_as_short_as_they_can_be(tmp_path, paths, ids):
    root = tmp_path / "films"
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    assert sorted(open_release(root).images["image_id"]) == ids


def test_one_more_image_is_another_dataset(tmp_path):
    root = tmp_path / "films"
    write_images(root, "a.png")
    packed(open_release(root), tmp_path / "pack")
    packed(open_release(root), tmp_path / "pack")
    write_images(root, "b.png")
    assert "was packed with another option 'files'" in refused(packed, open_release(root), tmp_path / "pack")


def test_a_folder_with_an_unknown_table_is_no_folder_of_images(tmp_path):
    root = tmp_path / "films"
    write_images(root, "x/a.png")
    write_text(root / "labels.csv", "file,Edema\nx/a.png,1")
    said = refused(open_release, root)
    assert (
        "`cxrdali releases` lists all; for any other give --table FILE, or a description of it with --release FILE"
        in said
    )


def test_a_folder_without_images_and_a_loop_of_links(tmp_path):
    root = tmp_path / "films"
    (root / "x").mkdir(parents=True)
    (root / "x" / "notes").write_text("none")
    (root / "x" / "back").symlink_to(root)
    assert not recognises(root)
    write_images(root, "x/a.png")
    assert open_release(root).images["path"].tolist() == ["x/a.png"]


@pytest.mark.parametrize("name", ["lat\udce9in.png", "two\nlines.png"])
def test_a_name_that_no_catalog_holds_is_said(tmp_path, name):
    write_images(tmp_path, "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    said = refused(open_release, tmp_path)
    assert said == f"{tmp_path}: {name!r}: a line break, a control or what is no UTF-8 is in it; rename the file"


def test_dicoms_without_a_suffix_beside_others_are_images(tmp_path):
    write_images(tmp_path, "a.png")
    for name in ("1.2.840.4", "IM0001", "DICOMDIR"):
        (tmp_path / name).write_bytes(dicom(np.arange(64, dtype=np.uint16).reshape(8, 8)))
    (tmp_path / "LICENSE").write_text("free")
    assert sorted(open_release(tmp_path).images["path"]) == ["1.2.840.4", "IM0001", "a.png"]


def test_labels_do_not_fit_and_other_images_of_a_release_are_asked_for(tmp_path):
    root = tmp_path / "films"
    write_images(root, "a.png")
    assert "labels fit no folder of bare images" in refused(open_release, root, [tmp_path])
    write_text(tmp_path / "Data_Entry_2017.csv", "Image Index,Finding Labels,Follow-up #,Patient ID,View Position")
    said = refused(open_release, root)
    assert f"{root}: {tmp_path} above it is a release, give that with --source" in said
    assert open_release(root, name="folder").images["image_id"].tolist() == ["a"]
    write_text(root / "labels.csv", "file,Edema\na.png,1")  # asked for by its name, a table is no reason
    release = open_release(root, name="folder")
    assert any("not read: 1 file, as 'labels.csv'" in note for note in release.notes)
    packed(release, tmp_path / "pack")
    said = refused(attach, tmp_path / "pack", [root])
    assert "packed without a table, so no label release fits them; give the labels as --table FILE" in said


def test_a_release_by_its_name_must_be_there(tmp_path):
    assert "no image (JPEG, PNG or DICOM) in it" in refused(open_release, tmp_path, name="folder")
    said = refused(open_release, tmp_path, name="chestx-ray14")
    assert f"{tmp_path}: not a release of chestx-ray14; it holds ChestX-ray14 Data_Entry" in said
    assert "no train.csv; chexpert needs train.csv" in refused(open_release, tmp_path, name="chexpert")


def test_images_of_a_folder_may_be_rejects(tmp_path):
    root = tmp_path / "films"
    write_images(root, "a.png")
    (root / "b.png").write_bytes(b"no image")
    dataset, pixels = packed(open_release(root), tmp_path / "pack")
    assert list(pixels) == ["a"] and len(dataset.catalog) == 2
