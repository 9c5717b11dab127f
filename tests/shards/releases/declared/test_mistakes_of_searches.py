"""What people do to a release whose files are searched by name and told by their headers: alike, or one clear line."""

import gzip
import zipfile

import pytest

from shards.errors import UserError
from shards.releases.open import open_release
from tests.shards.releases.declared import (
    test_padchest_gr,
    test_rsna_pneumonia,
    test_siim_acr,
    test_vinbigdata,
    test_vindr_cxr,
)
from tests.shards.releases.declared.layout import labels_of, packed, saved_by_excel

RELEASES = {
    "padchest-gr": test_padchest_gr,
    "rsna-pneumonia": test_rsna_pneumonia,
    "siim-acr": test_siim_acr,
    "vinbigdata": test_vinbigdata,
    "vindr-cxr": test_vindr_cxr,
}
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


@pytest.fixture(params=RELEASES)
def root(request, tmp_path):
    RELEASES[request.param].write(tmp_path / "data" / "release")
    return tmp_path / "data" / "release"


def tables(root):
    return sorted(path for path in root.rglob("*") if path.suffix in (".csv", ".zip"))


def read(root):
    release = open_release(root)
    return release.name, release.images.to_dict("list"), [labels_of(release, each.name) for each in release.labels]


def refused(root):
    with pytest.raises(UserError) as error:
        open_release(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_tables_saved_by_a_spreadsheet_read_alike(root):
    before = read(root)
    for path in tables(root):
        if path.suffix == ".zip":
            zipfile.ZipFile(path).extractall(root)
            path.unlink()
    for path in tables(root):
        saved_by_excel(path)
    assert read(root) == before


def test_tables_packed_otherwise_read_alike(root):
    before = read(root)
    for path in tables(root):
        if path.suffix == ".csv":
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    assert read(root) == before


def test_one_folder_too_high_or_too_deep_is_answered_with_the_release(root):
    assert f"{root} in it is one, give that with --source" in refused(root.parent)
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name != "annotations"):
        assert f"{root} above it is " in refused(folder)


def test_half_of_the_images_is_packed_with_its_labels_and_the_rest_is_absent(root, tmp_path):
    name, _, labels = read(root)
    images = open_release(root).images
    gone = images["image_id"][1::2].tolist()
    for path in images["path"][1::2]:
        (root / path).unlink()
    release = open_release(root)
    assert (release.name, [labels_of(release, each.name) for each in release.labels]) == (name, labels)
    dataset, pixels = packed(release, tmp_path / "pack")
    assert set(pixels) == set(images["image_id"]) - set(gone)
    assert dataset.info["counts"]["rejected"] == {"absent": len(gone)}


def test_tables_without_any_image_are_answered_with_the_first_name(root):
    images = open_release(root).images
    for path in images["path"]:
        (root / path).unlink()
    for path in root.glob("PadChest_GR_progression_prior_studies/*"):
        path.unlink()
    message = refused(root)
    assert f"none of the {len(images)} images of " in message and images["image_id"][0] in message


def test_a_second_copy_of_an_image_is_named_with_both_places(root):
    path = open_release(root).images["path"][0]
    copy = root / "copy" / path.rpartition("/")[2]
    copy.parent.mkdir()
    copy.write_bytes((root / path).read_bytes())
    message = refused(root)
    assert "is in it twice" in message and path in message and f"copy/{copy.name}" in message
