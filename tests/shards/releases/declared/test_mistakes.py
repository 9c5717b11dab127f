"""What people do to a release before they read it: the outcome is the same, or one clear line."""

import gzip
import shutil

import pytest

from shards.errors import UserError
from shards.releases.open import open_release
from tests.shards.releases.declared import (
    test_brax,
    test_chexpert,
    test_chexpert_plus,
    test_grand_xray_slam,
    test_openi,
    test_ranzcr_clip,
    test_rexgradient,
)
from tests.shards.releases.declared.layout import images_of, labels_of, packed, saved_by_excel

RELEASES = {
    "brax": test_brax,
    "chexpert": test_chexpert,
    "chexpert-plus": test_chexpert_plus,
    "grand-xray-slam": test_grand_xray_slam,
    "openi": test_openi,
    "ranzcr-clip": test_ranzcr_clip,
    "rexgradient": test_rexgradient,
}


@pytest.fixture(params=RELEASES)
def copy(request, tmp_path):
    """The module with a release's truth, and the release in a folder of its own, two levels below nothing else."""
    root = tmp_path / "data" / "release"
    RELEASES[request.param].write(root)
    return RELEASES[request.param], root


def tables(root):
    return sorted(path for path in root.rglob("*") if path.suffix in (".csv", ".json"))


def read(root):
    release = open_release(root)
    labels = [labels_of(release, each.name) for each in release.labels]
    return release.name, release.images.to_dict("list"), labels


def refused(root):
    with pytest.raises(UserError) as error:
        open_release(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_table_saved_by_a_spreadsheet_reads_alike(copy):
    module, root = copy
    before = read(root)
    for path in root.glob("*.csv"):
        saved_by_excel(path)
    assert read(root) == before
    assert before[1]["image_id"] == list(module.IMAGES)


def test_compressed_tables_read_alike(copy):
    _, root = copy
    before = read(root)
    for path in tables(root):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read(root) == before


def test_one_folder_too_high_is_answered_with_the_folder(copy):
    _, root = copy
    assert f"{root} in it is one" in refused(root.parent)


def test_one_folder_too_deep_is_answered_with_the_folder_above(copy):
    """Never packed as a folder without tables, where every image would be a patient of its own."""
    _, root = copy
    inside = sorted(path for path in root.iterdir() if path.is_dir())
    for folder in inside:
        assert f"{root} above it is " in refused(folder)


def test_half_of_the_images_is_packed_and_the_rest_is_absent(copy, tmp_path):
    module, root = copy
    release = open_release(root)
    gone = release.images["path"].tolist()[1::2]
    for path in gone:
        (root / path).unlink()
    half = open_release(root)
    assert half.images.to_dict("list") == release.images.to_dict("list")
    dataset, pixels = packed(half, tmp_path / "pack")
    assert list(pixels) and set(pixels) == set(list(module.IMAGES)[::2])
    assert len(dataset.catalog) == len(module.IMAGES)


def test_tables_without_any_image_are_answered_with_a_path(copy):
    _, root = copy
    first = open_release(root).images["path"].iloc[0]
    for path in [path for path in root.rglob("*") if path.suffix in (".png", ".jpg")]:
        path.unlink()
    assert first.rpartition("/")[2] in refused(root)


def test_images_of_another_name_are_not_taken(copy):
    """All in capitals, as an old system wrote them: absent, unless this machine's disk says otherwise."""
    module, root = copy
    release = open_release(root)
    path = root / release.images["path"].iloc[0]
    shutil.move(path, path.with_name(path.name.upper()))
    assert images_of(open_release(root), *module.COLUMNS) == module.IMAGES


def with_the_last_row_twice(module, root, name):
    module.write(root)
    lines = (root / name).read_text().splitlines()
    (root / name).write_text("\n".join([*lines, lines[-1]]) + "\n")


@pytest.mark.parametrize(
    ("module", "name", "image", "line"),
    [
        (test_brax, "master_spreadsheet_update.csv", test_brax.IDS[-1], 10),
        (test_chexpert, "train.csv", test_chexpert.IDS[4], 7),
        (test_chexpert, "valid.csv", test_chexpert.IDS[6], 4),
        (test_grand_xray_slam, "train1.csv", test_grand_xray_slam.IDS[3], 6),
        (test_ranzcr_clip, "train.csv", test_ranzcr_clip.IDS[2], 5),
    ],
)
def test_labels_that_are_there_twice_are_named(tmp_path, module, name, image, line):
    with_the_last_row_twice(module, tmp_path, name)
    said = refused(tmp_path)
    assert f"{name}: {image!r} is there again" in said and said.endswith(f"line {line}")


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        (test_chexpert_plus, "df_chexpert_plus_240401.csv", "5 rows of 4 images"),
        (test_openi, "indiana_projections.csv", "7 rows of 6 images"),
    ],
)
def test_rows_of_an_image_that_say_the_same_are_one_image(tmp_path, module, name, said):
    with_the_last_row_twice(module, tmp_path, name)
    release = open_release(tmp_path)
    assert images_of(release, *module.COLUMNS) == module.IMAGES and said in release.notes
