"""Places in shards that are longer than 2 GiB."""

import os
from pathlib import Path

import numpy as np
import pytest

from shards.dataset.mapped import NPY_HEADER, MappedSize, StoredSize
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

SIDE = 16
LENGTH = NPY_HEADER + SIDE * SIDE
BEGIN = 2**31 - 200  # fits into 32 bits, and the image's end does not


def places(length: int) -> list[np.ndarray]:
    return [np.array([each], np.int32) for each in (0, BEGIN, length)]


def stored(path: Path, length: int) -> StoredSize:
    return StoredSize(SIDE, True, {0: path}, {0: {"bytes": BEGIN + LENGTH}}, *places(length))


class Long(PackedDataset):
    """Its catalog has one row, whose numbers fit into 32 bits."""

    def numbers(self, *names: str) -> list[np.ndarray]:
        assert names == ("shard", f"offset_{SIDE}", f"length_{SIDE}")
        return places(LENGTH)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A sparse file that ends with one raw image of 7s."""
    path = tmp_path / str(SIDE) / "0.tar"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.seek(BEGIN)
        file.write(bytes(NPY_HEADER) + bytes([7]) * SIDE * SIDE)
    return path


def test_an_image_across_2_gib_is_found(shard, tmp_path):
    shards = [{"name": f"{SIDE}/0.tar", "bytes": BEGIN + LENGTH}]
    dataset = Long(tmp_path, {"sizes": {str(SIDE): {"pixels": SIDE, "encoding": "raw", "shards": shards}}})
    mapped = MappedSize(dataset.stored(SIDE))
    assert len(mapped[0]) == LENGTH and (mapped[0][NPY_HEADER:] == 7).all()
    (image,) = mapped.pixels(np.array([0]))
    assert image.shape == (SIDE, SIDE, 1) and (image == 7).all()
    assert mapped.addresses(np.array([0])) == image.ctypes.data


@pytest.mark.parametrize("length", [LENGTH + 1, LENGTH - 1, 2**31 - 1])
def test_a_length_that_no_raw_image_has_is_refused(shard, length):
    with pytest.raises(UserError, match=rf"0.tar: catalog row 0 has {length:,} bytes at byte {BEGIN:,}"):
        MappedSize(stored(shard, length)).addresses(np.array([0]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Path.unlink, r"cannot be read \(No such file or directory\); check"),
        (lambda path: os.truncate(path, BEGIN), f"has {BEGIN} bytes, dataset.json says {BEGIN + LENGTH}; copy"),
        (lambda path: os.truncate(path, 2**33), f"has {2**33} bytes, dataset.json says {BEGIN + LENGTH}; copy"),
    ],
)
def test_a_shard_that_changed_before_its_first_row_was_asked_for_is_named(shard, change, said):
    mapped = MappedSize(stored(shard, LENGTH))
    change(shard)
    with pytest.raises(UserError, match=f"0.tar: {said}"):
        mapped.slices(np.array([0]))
