"""Verification: every kind of damage is found and named by its file."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import simplejpeg

from shards.dataset.content import content, image_hash
from shards.dataset.description import dataset_identity, seal
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.verify import verify
from shards.storage.files import json_bytes, sha256_file

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(pack_folder, tmp_path):
    return shutil.copytree(pack_folder, tmp_path / "pack")


def problems(root, deep=False):
    return verify(root, deep).problems


def flip(path, place=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def reseal(root):
    """Recompute every hash in dataset.json, as damage before the hashing would have left it."""
    info = json.loads((root / "dataset.json").read_bytes())
    for size in info["sizes"].values():
        for shard in size["shards"]:
            path = root / shard["name"]
            shard |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            shard["index_sha256"] = sha256_file(path.with_suffix(".idx"))
    info["catalog_sha256"] = sha256_file(root / "catalog.parquet")
    info["id"] = dataset_identity(info)
    (root / "dataset.json").write_bytes(json_bytes(seal(info)))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_whole_dataset_has_no_problem_and_is_counted(pack_folder, deep, jobs):
    report = verify(pack_folder, deep, jobs)
    assert report.problems == () and report.deep == deep
    assert (report.shards, report.samples) == (3 * 8, 3 * 120)
    assert report.num_bytes == sum(path.stat().st_size for path in pack_folder.glob("*/*.tar"))


def test_a_truncated_shard_is_named_with_both_sizes(copy):
    path = copy / "64" / "000001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:-700])
    assert problems(copy) == (f"{path}: {len(whole) - 700} bytes, dataset.json says {len(whole)}",)


@pytest.mark.parametrize("place", [0, 300, 600, 5000, -1])
@pytest.mark.parametrize("folder", ["48", "56"])
def test_a_flipped_bit_in_a_shard_is_named(copy, folder, place):
    """In a header, in an image, in the padding after the end mark."""
    path = copy / folder / "000004.tar"
    flip(path, place)
    assert problems(copy) == (f"{path}: its sha256 differs from dataset.json",)


@pytest.mark.parametrize(
    "name", ["48/000000.idx", "rejects.csv", "labels/chexpert.parquet", "labels/cxr-lt-2023.parquet"]
)
@pytest.mark.parametrize("place", [0, None, -1], ids=["first", "middle", "last"])
def test_a_flipped_bit_in_another_file_is_named(copy, name, place):
    flip(copy / name, place)
    assert problems(copy) == (f"{copy / name}: its sha256 differs from dataset.json",)


def test_a_bit_flipped_anywhere_in_the_catalog_is_named(copy):
    path = copy / "catalog.parquet"
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        flip(path, place)
        assert f"{path}: its sha256 differs from dataset.json" in problems(copy)
        path.write_bytes(whole)


def test_a_bit_flipped_anywhere_in_the_description_is_named(copy):
    path = copy / "dataset.json"
    whole = path.read_bytes()
    keys = [whole.index(f'"{key}"'.encode()) + 2 for key in json.loads(whole)]
    keys += [whole.index(f'"{key}"'.encode()) + 2 for key in ("samples", "bytes", "sha256", "name", "planned")]
    for place in [*range(0, len(whole), len(whole) // 25), *keys]:
        flip(path, place)
        try:
            found = " ".join(problems(copy))
        except UserError as error:  # so damaged that there is nothing to compare with
            found = str(error)
        assert str(path) in found
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["56/000002.tar", "56/000002.idx", "rejects.csv", "labels/chexpert.parquet"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    assert problems(copy) == (f"{copy / name}: missing",)


def test_a_missing_catalog_is_named(copy):
    (copy / "catalog.parquet").unlink()
    assert any(problem.startswith(f"{copy / 'catalog.parquet'}: missing") for problem in problems(copy))


def test_a_size_that_is_not_here_is_named_and_a_fault_only_if_it_is_asked_for(copy):
    shutil.rmtree(copy / "64")
    report = verify(copy)
    assert (report.problems, report.absent, report.samples) == ((), ("64",), 2 * 120)
    report = verify(copy, sizes=["48", "64"])
    assert (report.problems, report.absent) == ((f"{copy / '64'}: the folder is missing",), ())


def test_only_the_sizes_that_are_asked_for_are_checked(copy):
    flip(copy / "48" / "000000.tar")
    assert verify(copy, sizes=["56", "64"]).problems == () and verify(copy, sizes=["56"]).samples == 120
    assert verify(copy, sizes=["48"]).problems == (f"{copy / '48/000000.tar'}: its sha256 differs from dataset.json",)
    with pytest.raises(UserError, match="no size '96'; it has 48, 56, 64"):
        verify(copy, sizes=["96"])


@pytest.mark.parametrize("name", ["48/000008.tar", "48/000000.tar.part", "64/.000001.idx.4242.part", "56/notes.txt"])
def test_an_extra_file_is_named(copy, name):
    (copy / name).write_bytes(b"")
    assert problems(copy) == (f"{copy / name}: not in dataset.json",)


def test_two_swapped_shards_are_both_named(copy):
    one, other = copy / "56" / "000000.tar", copy / "56" / "000001.tar"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    found = problems(copy)
    assert len(found) == 2 and str(one) in found[0] and str(other) in found[1]


def test_every_problem_is_listed_not_the_first_alone(copy):
    flip(copy / "48" / "000000.tar")
    flip(copy / "64" / "000007.idx")
    (copy / "rejects.csv").unlink()
    found = problems(copy)
    assert len(found) == 3
    assert all(name in " ".join(found) for name in ("48/000000.tar", "64/000007.idx", "rejects.csv"))


def test_without_a_description_there_is_nothing_to_compare_with(copy, tmp_path):
    for root in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="dataset.json: no such file"):
            verify(root)
    for text in ("", "[]", "{}", "nonsense"):
        (copy / "dataset.json").write_text(text)
        with pytest.raises(UserError, match="dataset.json: not readable"):
            verify(copy)


# ---------------------------------------------------------------- damage from before the hashing


def test_a_catalog_that_does_not_fit_the_tars_is_seen_with_right_hashes(copy):
    table = pd.read_parquet(copy / "catalog.parquet")
    table.loc[[3, 4], "offset_48"] = table.loc[[4, 3], "offset_48"].to_numpy()
    table.to_parquet(copy / "catalog.parquet", index=False)
    reseal(copy)
    assert problems(copy) == (
        f"{copy / '48/000000.idx'}: its samples are not the catalog's",
        f"{copy / '48/000000.tar'}: its members are not the catalog's",
    )


def test_an_index_that_does_not_fit_is_seen_with_right_hashes(copy):
    path = copy / "48" / "000003.idx"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]))
    reseal(copy)
    assert problems(copy) == (f"{path}: its samples are not the catalog's",)
    path.write_text("\n".join(lines[:-2]) + "\n")
    reseal(copy)
    assert problems(copy) == (f"{path}: {len(lines) - 3} lines where the header says {len(lines) - 2}",)


def test_a_broken_tar_is_seen_with_right_hashes(copy):
    path = copy / "48" / "000003.tar"
    stored = PackedDataset.open(copy).stored(48)
    second = np.flatnonzero(stored.shard == 3)[1]
    header = int(stored.offset[second]) - 512
    flip(path, header + 5)
    reseal(copy)
    (problem,) = problems(copy)
    assert problem.startswith(f"{path}: broken header at byte {header}")


def damage_sample(root, pixels, row, damage):
    """Change the stored bytes of one row in place and recompute the hashes; returns the member's name."""
    dataset = PackedDataset.open(root)
    stored = dataset.stored(pixels)
    start, length = int(stored.offset[row]), int(stored.length[row])
    path = stored.paths[stored.shard[row]]
    data = bytearray(path.read_bytes())
    changed = damage(bytes(data[start : start + length]))
    assert len(changed) == length
    before, data[start : start + length] = bytes(data[start : start + length]), changed
    path.write_bytes(data)
    info = json.loads((root / "dataset.json").read_bytes())
    entry = next(each for each in info["sizes"][str(pixels)]["shards"] if root / each["name"] == path)
    hashes = [image_hash(dataset.key(row), each) for each in (before, changed)]
    entry["content"] = content([entry["content"], -hashes[0], hashes[1]])
    (root / "dataset.json").write_bytes(json_bytes(info))
    reseal(root)
    return f"{path}: {dataset.key(row)}.{'npy' if stored.raw else 'jpg'}: "


def another_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


DAMAGES = {
    "half of it blank": (64, lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2)),
    "blank": (64, lambda data: bytes(len(data))),
    "no end": (64, lambda data: data[:-2] + b"\0\0"),
    "another size": (
        64,
        lambda data: simplejpeg.encode_jpeg(np.zeros((32, 32, 1), np.uint8), 50, "GRAY").ljust(len(data), b"\0"),
    ),
    "raw magic": (56, lambda data: b"X" + data[1:]),
    "another raw shape": (56, lambda data: another_npy(np.zeros((28, 112), np.uint8))),
    "raw signed": (56, lambda data: another_npy(np.zeros((56, 56), np.int8))),
    "raw 16 bit": (56, lambda data: another_npy(np.zeros((56, 28), np.uint16))),
    "raw header": (56, lambda data: data.replace(b"'descr'", b"'fescr'")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_deep_decodes_and_names_the_sample(copy, damage):
    size, change = DAMAGES[damage]
    name = damage_sample(copy, size, 50, change)
    assert problems(copy) == ()
    (problem,) = problems(copy, deep=True)
    assert problem.startswith(name)


def test_deep_names_every_damaged_sample(copy):
    names = [damage_sample(copy, 48, row, lambda data: bytes(len(data))) for row in (0, 1, 119)]
    found = problems(copy, deep=True)
    assert len(found) == 3
    assert all(problem.startswith(name) for problem, name in zip(found, names, strict=True))
