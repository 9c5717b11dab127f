"""Raw renditions on their way without DALI; pixels beside the NumPy reference."""

import sys
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from cxrdali.data import raw
from cxrdali.data.augment import AugmentOptions, Cutout, Flips, decide, in_order
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from shards.dataset.mapped import Alike, MappedSize
from shards.errors import UserError
from tests.cxrdali.data.test_loader import RAW, epoch, stored_image, training
from tests.cxrdali.data.test_pipeline import KINDS
from tests.cxrdali.reference import augmented
from tests.heard import heard


class Memory:
    """Images that lie anywhere in memory, as raw rows of a mapped size."""

    def __init__(self, images):
        self.images = images

    def addresses(self, rows):
        return np.array([self.images[row].ctypes.data for row in rows], dtype=np.int64)

    def pixels(self, rows):
        return [self.images[row][..., None] for row in rows]


@dataclass(frozen=True)
class OnDevice(LoaderOptions):
    """As for a GPU, with the CPU as the device."""

    device: str = "cpu:0"

    @property
    def on_gpu(self):
        return True


@pytest.fixture
def no_kernel(monkeypatch):
    """It is imported anew."""
    for name in [name for name in sys.modules if name == "cxrdali.data.kernel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("cxrdali.data.kernel", raising=False)
    raw.compiled.cache_clear()
    yield
    raw.compiled.cache_clear()


@pytest.fixture
def no_numba(monkeypatch, no_kernel):
    monkeypatch.setitem(sys.modules, "numba", None)


def own_threads():
    return [each for each in threading.enumerate() if each.name.startswith("cxrdali batch")]


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("size", [1, 3, 7, 16, 31, 57, 65, 130])
@pytest.mark.parametrize(("cutout", "side"), KINDS)
def test_one_pass_carries_out_the_decisions_pixel_for_pixel(size, cutout, side):
    count, room = 24, np.full((26, size, size), 9, dtype=np.uint8)
    images = np.random.default_rng(size).integers(1, 256, (count, size, size), dtype=np.uint8)
    options = AugmentOptions(cutout=cutout, side=side)
    made = decide(options, 3, 1, 0, count, size)
    rows = np.arange(count)
    raw.fill(Memory(images), rows, in_order(options), made, room[1:-1], Alike(size, True, rows))
    for place, image in enumerate(images):
        assert (room[1 + place] == augmented(image, made, place)).all()
    assert (room[[0, -1]] == 9).all()  # nothing was written beside the batch


@pytest.mark.parametrize("augment", [(), (Flips(),), (Cutout(side=0.2),), (Flips(1, 1), Flips(1, 1))])
def test_a_part_of_the_augmentation_or_twice_the_same(dataset, augment):
    ((images, rows),) = Loader(dataset, np.arange(40), LoaderOptions(RAW, 40), augment=augment, seed=5)
    none = {"anchor": np.zeros((40, 10)), "shape": np.zeros((40, 10)), "horizontal": [0] * 40, "vertical": [0] * 40}
    made = none | ({} if len(augment) == 2 else decide(augment, 5, 0, 0, 40, RAW))
    for place, row in enumerate(rows.tolist()):
        assert (images[place, 0].numpy() == augmented(stored_image(dataset, RAW, row), made, place)).all()


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_ranks_share_a_batch_and_resume_with_another_size(dataset, order):
    options = {"size": RAW, "order": order, "window": 2, "seed": 3}
    rows, images = epoch(training(dataset, batch=16, **options))
    parts = []
    for rank in (0, 1):
        part = training(dataset, batch=16, **options)
        part.rank, part.world = rank, 2
        parts.append([batch.images for batch in part])
    assert (torch.cat([torch.cat(pair) for pair in zip(*parts, strict=True)]).numpy() == images).all()
    resumed = training(dataset, batch=8, **options)
    resumed.load_state_dict({"epoch": 0, "position": 48})
    other_rows, other = epoch(resumed)
    assert len(other_rows) == 72 and (other_rows[:64] == rows[48:]).all() and (other[:64] == images[48:]).all()


def test_repeated_rows_are_augmented_each_in_its_own_way(dataset):
    loader = training(dataset, size=RAW, batch=16, rows=np.full(64, 7), augment=AugmentOptions(side=0.15))
    rows, images = epoch(loader)
    made = decide(AugmentOptions(side=0.15), 0, 0, 0, 64, RAW)
    assert set(rows) == {7} and len({image.tobytes() for image in images}) > 10
    for place in range(64):
        assert (images[place, 0] == augmented(stored_image(dataset, RAW, 7), made, place)).all()


def test_the_way_to_a_gpu_gives_the_same_pixels(dataset):
    """Plain copies, and the augmentation on the device: here the CPU, so that nothing is pinned."""
    rows, images = epoch(training(dataset, size=RAW, seed=4))
    augment = AugmentOptions(side=0.15)
    loader = Loader(dataset, np.arange(120), OnDevice(RAW, 16), seed=4, shuffle=True, augment=augment, drop_last=True)
    held, copies = [], []
    for batch in loader:
        held.append(batch.images)
        copies.append(batch.images.clone())
    assert (torch.cat(held).numpy() == images).all() and torch.equal(torch.cat(held), torch.cat(copies))


def test_without_numba_the_pixels_are_the_same(dataset, no_numba):
    said = []
    with heard(said):
        rows, images = epoch(training(dataset, size=RAW, seed=5))
        epoch(training(dataset, size=RAW))
    (line,) = said
    assert line.startswith("raw images are copied one by one, which is slower: numba cannot be used (")
    made = decide(AugmentOptions(side=0.15), 5, 0, 0, len(rows), RAW)
    for place, row in enumerate(rows):
        assert (images[place, 0] == augmented(stored_image(dataset, RAW, row), made, place)).all()


def test_told_to_compile_nothing_numba_is_as_good_as_absent(monkeypatch, no_kernel):
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    said = []
    with heard(said):
        assert raw.compiled() is None
    assert said == [
        "raw images are copied one by one, which is slower: numba cannot be used (NUMBA_DISABLE_JIT is set)"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_file_of_numba_s_cache_that_a_crash_has_cut_is_not_relied_on(monkeypatch, tmp_path, kind):
    from cxrdali.data import kernel

    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    kernel.compiled()
    (cut,) = tmp_path.rglob(f"*.{kind}")
    cut.write_bytes(b"")
    image, out = np.arange(9, dtype=np.uint8).reshape(3, 3), np.zeros((1, 3, 3), dtype=np.uint8)
    squares, flips = np.zeros((1, 10), dtype=np.float32), np.ones(1, dtype=np.int32)
    kernel.compiled()(np.array([[image.ctypes.data], [0]]), out, squares, squares, flips, 0 * flips)
    assert (out[0] == image[:, ::-1]).all()


@pytest.mark.parametrize("error", [RuntimeError("no locator available"), OSError(28, "No space left on device")])
def test_without_room_for_its_cache_numba_compiles_in_memory(monkeypatch, error):
    from cxrdali.data import kernel

    real = kernel.njit

    def njit(*arguments, **options):
        if options.get("cache"):
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(kernel, "njit", njit)
    image, flips, squares = np.arange(9, dtype=np.uint8), np.ones(1, dtype=np.int32), np.zeros((1, 10), np.float32)
    out = np.zeros((1, 3, 3), dtype=np.uint8)
    kernel.compiled()(np.array([[image.ctypes.data], [0]]), out, squares, squares, flips, 0 * flips)
    assert out.tolist() == [[[2, 1, 0], [5, 4, 3], [8, 7, 6]]]


# ---------------------------------------------------------------- threads and memory


def test_batches_are_made_ahead_and_no_more_than_asked_for(dataset):
    loader = training(dataset, size=RAW, batch=8, prefetch=3)
    batches = iter(loader)
    for _ in range(3):
        next(batches)  # let go at once
    assert len(loader.buffers) <= 3 + 2
    stop = time.monotonic() + 5
    while time.monotonic() < stop and own_threads() == []:
        time.sleep(0.01)
    assert own_threads()
    loader.close()
    assert own_threads() == []


def test_iterations_left_half_way_do_no_harm(dataset):
    rows, images = epoch(training(dataset, size=RAW))
    loader = training(dataset, size=RAW)
    for count in range(6):
        for number, _ in enumerate(loader):
            if number == count:
                break
    other_rows, other = epoch(loader)
    assert (rows == other_rows).all() and (images == other).all()
    for _ in range(20):
        dropped = training(dataset, size=RAW)
        next(iter(dropped))
        del dropped
    loader.close()
    assert own_threads() == []


def test_held_batches_stay_as_they_were(dataset):
    loader = training(dataset, size=RAW, batch=8)
    held, copies = [], []
    for _ in range(3):
        for images, _ in loader:
            held.append(images[2:3])
            copies.append(images[2:3].clone())
    assert torch.equal(torch.cat(held), torch.cat(copies))
    assert len(loader.buffers) >= len(held)
    del held, images
    for images, _ in loader:
        del images
    assert len(loader.buffers) <= 5


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("column", "value"),
    [("length", 127 + RAW**2), ("length", 192 + RAW**2), ("offset", 10**9), ("offset", -1)],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_nothing_is_read_beside_an_image(dataset, column, value, compiled, request):
    if not compiled:
        request.getfixturevalue("no_numba")
    stored = dataset.stored(RAW)
    changed = getattr(stored, column).copy()
    changed[17] = value
    loader = training(dataset, size=RAW)
    loader.mapped = MappedSize(replace(stored, **{column: changed}))
    with pytest.raises(UserError, match=rf"{stored.paths[stored.shard[17]]}: catalog row 17 has .* not 3,264 within"):
        list(loader)
    loader.mapped = MappedSize(stored)
    assert len(epoch(loader)[0]) == 112


def test_a_stored_image_that_ends_with_its_shard_can_be_read(dataset):
    stored = dataset.stored(RAW)
    row, size = 0, stored.paths[stored.shard[0]].stat().st_size
    offset = stored.offset.copy()
    for end, fits in ((size, True), (size + 1, False)):
        offset[row] = end - stored.length[row]
        mapped = MappedSize(replace(stored, offset=offset))
        if fits:
            assert len(mapped.pixels(np.array([row]))) == len(mapped.addresses(np.array([row]))) == 1
        else:
            with pytest.raises(UserError, match="catalog row 0"):
                mapped.addresses(np.array([row]))


def test_a_shard_that_is_fetched_again_stays_where_it_is(dataset):
    """A copy by address may be under way."""
    mapped, rows = MappedSize(dataset.stored(RAW)), np.arange(20)
    before = mapped.addresses(rows)
    for shard in mapped.stored.paths:
        assert mapped.fetch(shard)
    assert (mapped.addresses(rows) == before).all()
    assert (mapped.pixels(rows[:1])[0][:, :, 0] == stored_image(dataset, RAW, 0)).all()
