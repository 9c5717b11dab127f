"""Bad inputs of a whole release: refused before any shard, or rejected, counted and judged once."""

import gzip
import hashlib
import os
import re
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.estimate import estimate
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.packing.verify import verify
from shards.releases.checksums import CHECKSUMS
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from tests.releases import contents, smooth_image, write_release

METADATA = "mimic-cxr-2.0.0-metadata.csv.gz"
OPTIONS = PackOptions(sizes=(Size(32), Size(40, raw=True)), shard_images=4)
IMAGES = 15


@pytest.fixture
def root(tmp_path):
    """A release of 15 images."""
    write_release(tmp_path / "release", subjects=4)
    return tmp_path / "release"


def images(root):
    return [root / path for path in open_release(root).images["path"]]


def packed(root, options=OPTIONS, **limits):
    return pack(open_release(root), root.parent / "pack", options, limits=PackLimits(**limits))


def refused(root, options=OPTIONS, **limits):
    with pytest.raises(UserError) as error:
        packed(root, options, **limits)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(path, change):
    """Change a gzipped table as text."""
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()).decode()).encode()))


# ---------------------------------------------------------------- too many rejects


def test_more_rejects_than_allowed_end_without_a_publication_and_a_rerun_reads_only_what_was_repaired(root):
    unbroken = root.parent / "unbroken"
    pack(open_release(root), unbroken, OPTIONS)
    first, second = images(root)[3], images(root)[9]
    whole = {path: path.read_bytes() for path in (first, second)}
    first.write_bytes(b"")
    second.unlink()
    said = refused(root)
    listing = root.parent / "pack" / ".packing" / "rejects.csv"
    assert f"2 of {IMAGES} images (13.33%) were rejected, more than --max-reject-fraction 0.01 allows" in said
    assert "1 empty file" in said and "1 absent" in said and f"listed in {listing}" in said
    assert set(pd.read_csv(listing)["reason"]) == {"empty file", "absent"}
    with pytest.raises(UserError, match="unfinished packed dataset"):
        PackedDataset.open(root.parent / "pack")
    first.write_bytes(whole[first])
    assert "1 of 15 images (6.67%) were rejected" in refused(root)
    second.write_bytes(whole[second])
    summary = packed(root)
    assert 0 < summary.images_this_run <= 4 + 2 and summary.rejected == {}  # one shard
    assert contents(root.parent / "pack") == contents(unbroken)


def test_the_fraction_is_judged_once_and_may_be_raised_for_what_is_there(root):
    for path in images(root)[:2]:
        path.write_bytes(b"")
    refused(root, max_reject_fraction=1.9 / IMAGES)
    summary = packed(root, max_reject_fraction=2 / IMAGES)
    assert (summary.images_this_run, summary.packed, summary.rejected) == (0, IMAGES - 2, {"empty file": 2})
    assert verify(root.parent / "pack").problems == ()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_is_a_fraction(fraction):
    with pytest.raises(UserError, match="max reject fraction .*: 0 to 1"):
        PackLimits(max_reject_fraction=fraction)


# ---------------------------------------------------------------- converted


def test_conversions_are_counted_and_stand_in_the_catalog(root):
    rgb, progressive = images(root)[0], images(root)[5]
    gray = smooth_image(np.random.default_rng(5), 90, 80)
    rgb.write_bytes(cv2.imencode(".jpg", np.dstack([gray] * 3))[1].tobytes())
    progressive.write_bytes(
        cv2.imencode(".jpg", np.dstack([gray, 255 - gray, gray]), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    )
    assert packed(root).converted == {"RGB": 2, "progressive": 1}
    dataset = PackedDataset.open(root.parent / "pack")
    assert dataset.info["counts"]["converted"] == {"RGB": 2, "progressive": 1}
    known = dataset.catalog.set_index("image_id")["converted"]
    assert (known[rgb.stem], known[progressive.stem]) == ("RGB", "RGB, progressive")
    assert known.notna().sum() == 2


# ---------------------------------------------------------------- hashes


def publish_hashes(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(root)}\n" for path in files]
    (root / CHECKSUMS).write_text("".join(lines))


HASHED = PackOptions(OPTIONS.sizes, shard_images=4, check_hashes=True)


def test_a_flipped_bit_that_still_decodes_is_found_by_published_hashes_alone(root):
    publish_hashes(root)
    path = images(root)[7]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) is not None
    summary = packed(root, HASHED, max_reject_fraction=0.1)
    assert summary.rejected == {f"sha256 differs from {CHECKSUMS}": 1}
    rejects = pd.read_csv(root.parent / "pack" / "rejects.csv")
    assert rejects["path"].tolist() == [str(path.relative_to(root))]
    assert "another option 'check_hashes': True there, False now" in refused(root)


def test_an_image_without_a_published_hash_is_not_let_in(root):
    publish_hashes(root)
    lines = (root / CHECKSUMS).read_text().splitlines(keepends=True)
    (root / CHECKSUMS).write_text("".join(line for line in lines if images(root)[2].name not in line))
    assert packed(root, HASHED, max_reject_fraction=0.1).rejected == {f"not listed in {CHECKSUMS}": 1}


def test_a_changed_table_a_foreign_list_a_cut_list_and_no_list_are_refused_before_any_shard(root):
    assert f"{root / CHECKSUMS}: no such file, so there is nothing to check" in refused(root, HASHED)
    publish_hashes(root)
    edit(root / METADATA, lambda text: text + "\n")
    assert f"{root / METADATA}: its sha256 differs from {CHECKSUMS}; download it again" in refused(root, HASHED)
    edit(root / METADATA, lambda text: text[:-1])
    publish_hashes(root)
    whole = (root / CHECKSUMS).read_text()
    (root / CHECKSUMS).write_text(whole.replace("files/", "other/"))
    assert "lists no image of the release, for example not 'files/p10/" in refused(root, HASHED)
    (root / CHECKSUMS).write_text(whole[: len(whole) // 2])
    assert re.search(r"SHA256SUMS.txt: line \d+ is no sha256 and path: '.*'; download it again", refused(root, HASHED))
    assert not (root.parent / "pack").exists()


def test_both_spellings_of_a_list_of_hashes_are_read(root):
    publish_hashes(root)
    text = (root / CHECKSUMS).read_text()
    (root / CHECKSUMS).write_text(re.sub(r"(?m)^(\w+) ", r"\1  ./", text))  # as sha256sum writes
    assert packed(root, HASHED).packed == IMAGES


# ---------------------------------------------------------------- paths and links


def test_an_id_that_leaves_the_release_is_refused(root):
    first = open_release(root).images["image_id"].iloc[0]
    for bad in ("../../../../../secret", "..", "a//b", "/etc/passwd"):
        edit(root / METADATA, lambda text, bad=bad: text.replace(first, bad))
        for folder in ("cxr-lt-2023",):
            shutil.rmtree(root / folder, ignore_errors=True)
        if bad == "..":
            with pytest.raises(UserError):  # "...jpg" is a plain name; its split row has gone, nothing else
                packed(root, max_reject_fraction=0)
        else:
            assert f"{root / METADATA}: the path 'files/p10/" in refused(root)
        edit(root / METADATA, lambda text, bad=bad: text.replace(bad, first))


@pytest.mark.parametrize("level", [1, 2])
def test_a_folder_that_is_a_link_out_is_refused_before_any_shard_and_may_be_allowed(root, level):
    folder = root / "files" if level == 1 else root / "files" / "p10"
    shutil.move(folder, root.parent / "elsewhere")
    folder.symlink_to(root.parent / "elsewhere")
    assert refused(root) == (
        f"{folder}: a link out of the release, to {root.parent / 'elsewhere'}; "
        "give --allow-links if that is where your images are"
    )
    with pytest.raises(UserError, match="a link out of the release"):
        estimate(open_release(root), OPTIONS)
    assert not (root.parent / "pack").exists()
    assert packed(root, PackOptions(OPTIONS.sizes, shard_images=4, allow_links=True)).packed == IMAGES


def test_an_image_that_is_a_link_out_is_rejected_with_the_place(root):
    path = images(root)[4]
    shutil.move(path, root.parent / "secret.jpg")
    path.symlink_to(root.parent / "secret.jpg")
    assert packed(root, max_reject_fraction=0.1).rejected == {"outside the release, without --allow-links": 1}
    reason = pd.read_csv(root.parent / "pack" / "rejects.csv")["reason"].tolist()
    assert reason == [
        f"outside the release, without --allow-links: a link to {os.path.realpath(root.parent / 'secret.jpg')}"
    ]


def link_out(root, *paths):
    """Move images to another folder and leave links to them."""
    for path in paths:
        target = root.parent / "disk" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.move(path, target)
        path.symlink_to(target)


LINKS = PackOptions(OPTIONS.sizes, shard_images=4, allow_links=True)


def test_images_that_are_links_out_are_refused_before_packing_and_then_allowed(root):
    whole = root.parent / "whole"
    pack(open_release(root), whole, LINKS)
    link_out(root, *images(root)[::2])
    first = images(root)[0]
    assert refused(root) == (
        f"{first}: a link out of the release, to {os.path.realpath(first)}, as are 8 of 15 images that were looked at; "
        "give --allow-links if that is where your images are"
    )
    with pytest.raises(UserError, match="give --allow-links"):
        estimate(open_release(root), OPTIONS)
    assert not (root.parent / "pack").exists()
    assert packed(root, LINKS).packed == IMAGES and contents(root.parent / "pack") == contents(whole)


def test_links_may_be_allowed_in_a_folder_of_which_nothing_is_published(root):
    whole = root.parent / "whole"
    pack(open_release(root), whole, LINKS)
    link, damaged = images(root)[3], images(root)[9]
    link_out(root, link)
    data = damaged.read_bytes()
    damaged.write_bytes(b"")
    said = refused(root, max_reject_fraction=0.1)
    assert "1 outside the release, without --allow-links" in said
    damaged.write_bytes(data)
    summary = packed(root, LINKS, max_reject_fraction=0.1)
    assert (summary.packed, summary.rejected) == (IMAGES, {})
    assert contents(root.parent / "pack") == contents(whole)


def test_links_may_be_allowed_or_not_where_none_is_without_another_dataset(root):
    for first, then in ((OPTIONS, LINKS), (LINKS, OPTIONS)):
        shutil.rmtree(root.parent / "pack", ignore_errors=True)
        assert packed(root, first).packed == IMAGES
        assert packed(root, then).already_finished


# ---------------------------------------------------------------- subjects in two splits


def overlap(root):
    """Move one image of the first training subject to the released test split."""
    train = pd.read_csv(root / "cxr-lt-2023" / "train.csv", dtype=str)
    test = pd.read_csv(root / "cxr-lt-2023" / "test.csv", dtype=str)
    of_first = train["subject_id"] == train["subject_id"].iloc[0]
    moved = train[of_first].iloc[:1]
    train.drop(moved.index).to_csv(root / "cxr-lt-2023" / "train.csv", index=False)
    pd.concat([test, moved]).to_csv(root / "cxr-lt-2023" / "test.csv", index=False)
    return moved["dicom_id"].iloc[0], train["dicom_id"][of_first].iloc[1]


def test_a_subject_in_two_splits_is_refused_before_any_shard_and_may_be_allowed(root):
    moved, other = overlap(root)
    said = refused(root)
    assert said == (
        f"{root / 'cxr-lt-2023' / 'train.csv'}: subjects in more than one split of labels 'cxr-lt-2023': 1, such as "
        f"that of the images '{moved}' (test) and '{other}' (train); correct the table, or go on with "
        "--allow-subject-overlap"
    )
    with pytest.raises(UserError, match="subjects in more than one split"):
        estimate(open_release(root), OPTIONS)
    assert not (root.parent / "pack").exists()
    assert packed(root, allow_subject_overlap=True).packed == IMAGES


def test_labels_of_other_studies_are_refused(root):
    edit(root / "mimic-cxr-2.0.0-chexpert.csv.gz", lambda text: re.sub(r"(?m)^(\d+),5", r"\1,6", text))
    with pytest.raises(UserError, match=r"chexpert.csv.gz: none of its \d+ studies is in the release"):
        open_release(root)
