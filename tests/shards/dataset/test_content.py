"""The content of a size: equal for the same images in other shards, and only for those."""

import json
import shutil

import numpy as np
import pytest

from shards.dataset.content import content, image_hash
from shards.dataset.description import seal
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.make_shard import record_path
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.renditions.options import Size
from shards.storage.files import json_bytes
from tests.releases import write_release

ONE = (Size(48),)


def packed(release, out, sizes=ONE, jobs=1, **options):
    pack(open_release(release), out, PackOptions(sizes=sizes, **options), jobs)
    return PackedDataset.open(out)


def contents(dataset, size):
    return [shard["content"] for shard in dataset.info["sizes"][str(size)]["shards"]]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("content") / "release"
    write_release(root, subjects=8)
    return root


@pytest.fixture(scope="module")
def one(release, tmp_path_factory):
    return packed(release, tmp_path_factory.mktemp("one") / "pack", shard_images=4)


def test_it_is_the_sum_of_the_hashes_of_what_is_stored(one):
    mapped = MappedSize(one.stored(48))
    hashes = [image_hash(one.key(row), bytes(mapped[row])) for row in np.flatnonzero(one.packed)]
    assert content(contents(one, 48)) == content(reversed(hashes)) and len(set(hashes)) == len(hashes)
    assert image_hash("a", b"b") != image_hash("ab", b"") and 0 <= content([2**64 - 1, 5]) < 2**62


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"shard_images": 9, "jobs": 2}, True),
        ({"seed": 1}, True),
        ({"sizes": (Size(32), Size(48))}, True),
        ({"quality": 50}, False),
        ({"fit": "crop"}, False),
        ({"sizes": (Size(48, raw=True),)}, False),
        ({"limit": 8}, False),
    ],
)
def test_other_shards_have_the_same_content_and_other_images_another(one, release, tmp_path, options, same):
    other = packed(release, tmp_path / "pack", **options)
    assert other.id != one.id and (content(contents(other, 48)) == content(contents(one, 48))) is same


def test_a_size_that_comes_later_has_the_content_of_one_packing(release, tmp_path):
    both = packed(release, tmp_path / "both", (Size(48), Size(32)), shard_images=5)
    later = packed(release, tmp_path / "later", shard_images=7)
    later = packed(release, later.root, (Size(48), Size(32)), shard_images=7)
    for size in (32, 48):
        assert content(contents(later, size)) == content(contents(both, size))


def test_a_deep_verify_looks_at_it(one, tmp_path):
    root = shutil.copytree(one.root, tmp_path / "pack")
    info = json.loads((root / "dataset.json").read_text())
    info["sizes"]["48"]["shards"][1]["content"] ^= 1
    (root / "dataset.json").write_bytes(json_bytes(seal(info)))
    assert verify(root, deep=True).problems == (
        f"{root}/48/000001.tar: the hash of its images is not the content in dataset.json",
    )
    assert not verify(one.root, deep=True).problems
    info["sizes"]["48"]["shards"][1]["content"] = -1
    (root / "dataset.json").write_bytes(json_bytes(seal(info)))
    with pytest.raises(UserError, match=r"sizes.'48'.shards\[1\].content is no count"):
        PackedDataset.open(root)


def test_records_of_an_earlier_version_are_taken_without(release, one, tmp_path, monkeypatch):
    def stopped(*arguments):
        raise UserError("killed before it was published")

    with monkeypatch.context() as patched:
        patched.setattr("shards.packing.pack.publish", stopped)
        with pytest.raises(UserError, match="killed"):
            packed(release, tmp_path / "pack", shard_images=4)
    path = record_path(tmp_path / "pack", 2)
    record = json.loads(path.read_text())
    del record["sizes"]["48"]["content"]
    path.write_bytes(json_bytes(record))
    dataset = packed(release, tmp_path / "pack", shard_images=4)
    shards = dataset.info["sizes"]["48"]["shards"]
    assert dataset.id == one.id and [place for place, each in enumerate(shards) if "content" not in each] == [2]
    assert not verify(dataset.root).problems
