"""Real DALI pipelines over real tars; the expected pixels come from simplejpeg and NumPy."""

import gc
import shutil
import tracemalloc
import weakref
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
import pytest
import simplejpeg

from cxrdali.data.augment import Augmentation, AugmentOptions, decide
from cxrdali.data.loader import Loader, nearest_stored
from cxrdali.data.options import LoaderOptions
from shards.dataset.dataset import Part
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from tests.cxrdali.reference import augmented

JPEG, RAW = 48, 56  # stored sizes of the fixture, and 64 as JPEG


def stored_image(dataset, size, row):
    mapped = MappedSize(dataset.stored(size))
    return (
        mapped.pixels([row])[0][:, :, 0] if mapped.stored.raw else simplejpeg.decode_jpeg(mapped[row], "GRAY")[:, :, 0]
    )


def training(dataset, size=JPEG, batch=16, seed=0, rows=None, **options):
    rows = np.arange(len(dataset.catalog)) if rows is None else rows
    augment = options.pop("augment", AugmentOptions(side=0.15))
    return Loader(
        dataset, rows, LoaderOptions(size, batch, **options), seed=seed, shuffle=True, augment=augment, drop_last=True
    )


def epoch(loader):
    """(rows, images) of the epoch that comes, as arrays."""
    batches = list(loader)
    return np.concatenate([b.rows.numpy() for b in batches]), np.concatenate([b.images.numpy() for b in batches])


# ---------------------------------------------------------------- output batches


@pytest.mark.parametrize("size", [JPEG, RAW])
def test_evaluation_hands_over_every_row_once_in_the_order_given(dataset, size):
    rows = np.arange(3, 60)
    loader = Loader(dataset, rows, LoaderOptions(size, batch=16))
    batches = list(loader)
    assert [len(b.rows) for b in batches] == [16, 16, 16, 9] and len(loader) == 4
    assert np.concatenate([b.rows for b in batches]).tolist() == rows.tolist()
    for images, batch_rows in batches:
        assert images.shape == (len(batch_rows), 1, size, size) and str(images.dtype) == "torch.uint8"
        for image, row in zip(images.numpy(), batch_rows.tolist(), strict=True):
            assert (image[0] == stored_image(dataset, size, row)).all()


@pytest.mark.parametrize("size", [JPEG, RAW])
def test_augmented_pixels_equal_the_numpy_reference(dataset, size):
    options = AugmentOptions(side=0.15)
    loader = training(dataset, size, seed=5, augment=options)
    loader.set_epoch(2)
    rows, images = epoch(loader)
    assert rows.tolist() == loader.epoch_rows(2)[: len(rows)].tolist()
    made = decide(options, 5, 2, 0, len(rows), size)
    for place, row in enumerate(rows):
        assert (images[place, 0] == augmented(stored_image(dataset, size, row), made, place)).all()
    assert made["horizontal"].any() and made["vertical"].any() and made["shape"].any()


def test_training_drops_the_remainder_and_shows_the_others_once(dataset):
    loader = training(dataset, batch=32)
    rows, _ = epoch(loader)
    assert len(dataset.catalog) == 120 and len(rows) == 96 == 32 * len(loader)
    assert len(set(rows)) == 96


def test_epochs_differ_and_move_on_by_themselves(dataset):
    loader = training(dataset)
    first, second = epoch(loader), epoch(loader)
    assert first[0].tolist() != second[0].tolist()
    loader.set_epoch(1)
    again = epoch(loader)
    assert again[0].tolist() == second[0].tolist() and (again[1] == second[1]).all()


def test_a_row_is_augmented_anew_in_every_epoch(dataset):
    loader = training(dataset, rows=np.arange(16))
    looks = []
    for _ in range(4):
        rows, images = epoch(loader)
        looks.append(images[rows.tolist().index(0)].tobytes())
    assert len(set(looks)) > 1


def test_held_batches_keep_their_pixels(dataset):
    """The memory of output batches is recycled only when nobody holds it, not even a slice."""
    loader = training(dataset, batch=8)
    held, copies = [], []
    for _ in range(3):
        for images, _ in loader:
            held.append(images[2:3])
            copies.append(images[2:3].clone())
    assert all((one == two).all() for one, two in zip(held, copies, strict=True))


def test_memory_is_recycled_when_batches_are_let_go(dataset):
    loader = training(dataset, batch=8)
    for _ in range(3):
        for images, _ in loader:
            del images
    assert len(loader.buffers) <= 2


# ---------------------------------------------------------------- independence


def test_the_same_pixels_for_any_threads_prefetch_and_batch(dataset):
    rows, images = epoch(training(dataset, batch=24))
    for options in ({"threads": 1}, {"threads": 2}, {"threads": 3}, {"prefetch": 1}, {"prefetch": 4}):
        other_rows, other = epoch(training(dataset, batch=24, **options))
        assert (rows == other_rows).all() and (images == other).all()
    other_rows, other = epoch(training(dataset, batch=10))
    assert (rows[:96] == other_rows[:96]).all() and (images[:96] == other[:96]).all()


def test_one_thread_decodes_in_one_lane_and_more_in_two():
    assert [LoaderOptions(JPEG, 8, threads=threads).lanes for threads in (1, 2, 5)] == [1, 2, 2]


def test_a_loader_says_how_many_threads_it_has(dataset, monkeypatch):
    """Without DALI no more than cores, for a resize as many as asked for."""
    monkeypatch.setattr("cxrdali.data.loader.cores", lambda: 3)
    asked = [(JPEG, 1), (JPEG, 6), (JPEG - 8, 6)]
    loaders = [Loader(dataset, np.arange(8), LoaderOptions(size, 8, threads=threads)) for size, threads in asked]
    assert [loader.options.resolved_threads for loader in loaders] == [1, 3, 6]


@pytest.mark.parametrize("threads", [1, 2])
def test_epochs_of_fewer_batches_than_lanes(dataset, threads):
    """A lane without a batch must be ready for the next epoch all the same."""
    loader = Loader(dataset, np.arange(50), LoaderOptions(JPEG, 32, threads=threads), shuffle=True, seed=2)
    for rows in (50, 20, 50):  # two batches, then one, then two
        loader.load_state_dict({"epoch": 0, "position": 50 - rows})
        assert len(epoch(loader)[0]) == rows


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_resuming_at_every_step_continues_with_the_same_pixels(dataset, order):
    options = {"batch": 16, "order": order, "window": 2}
    loader = training(dataset, **options)
    loader.set_epoch(1)
    states, batches = [], []
    for batch in loader:
        states.append(loader.state_dict())
        batches.append(batch)
    batches.append(next(iter(loader)))  # the first batch of epoch 2
    for step, state in enumerate(states):
        resumed = training(dataset, **options)
        resumed.load_state_dict(state)
        rest = list(resumed) or [next(iter(resumed))]
        expected = batches[step + 1 : -1] or batches[-1:]
        assert len(rest) == len(expected)
        for one, two in zip(rest, expected, strict=True):
            assert (one.rows == two.rows).all() and (one.images == two.images).all()


def test_resuming_with_another_batch_size_completes_the_epoch(dataset):
    loader = training(dataset, batch=16)
    seen = []
    for batch in loader:
        seen += batch.rows.tolist()
        if len(seen) == 48:
            state = loader.state_dict()
            break
    resumed = training(dataset, batch=8)
    resumed.load_state_dict(state)
    rest = [row for batch in resumed for row in batch.rows.tolist()]
    assert not set(seen) & set(rest) and len(seen) + len(rest) == 120


def test_an_abandoned_iteration_does_not_disturb_the_next(dataset):
    loader = training(dataset)
    rows, images = epoch(loader)
    loader.set_epoch(0)
    for _ in loader:
        break
    loader.set_epoch(0)
    other_rows, other = epoch(loader)
    assert (rows == other_rows).all() and (images == other).all()


def test_loaders_dropped_half_way_do_no_harm(dataset):
    """DALI is still decoding what the dropped loader kept alive."""
    for _ in range(40):
        loader = training(dataset, size=64, batch=16)
        next(iter(loader))
        del loader


@pytest.mark.parametrize("whole", [True, False])
def test_a_loader_goes_with_its_last_reference(dataset, whole):
    """Its pipelines, buffers and maps are too large to wait for the garbage collector."""
    loader = training(dataset, batch=16)
    batches = iter(loader)
    next(batches)
    if whole:
        list(batches)
    else:
        batches.close()
        loader.close()  # what the next iteration begins with
    gone = weakref.ref(loader)
    gc.collect()
    gc.disable()
    try:
        del batches, loader
        assert gone() is None
    finally:
        gc.enable()


def test_a_loop_after_a_look_at_the_first_batch_sees_every_row(dataset):
    loader = Loader(dataset, np.arange(60), LoaderOptions(JPEG, batch=16))
    next(iter(loader))
    assert [row for batch in loader for row in batch.rows.tolist()] == list(range(60))


def test_windowed_order_reaches_the_loader(dataset):
    loader = training(dataset, batch=16, order="windowed", window=2)
    shards = dataset.catalog["shard"].to_numpy()
    rows, _ = epoch(loader)
    assert len(set(shards[rows[:30]])) <= 4  # a window holds two shards of 16; global order would show all eight


class Repeated:
    """A dataset whose catalog is another's, many times over: as many rows, no more files."""

    def __init__(self, dataset, times):
        self.root, self.sizes, self.packed = dataset.root, dataset.sizes, np.tile(dataset.packed, times)
        self._dataset, self._times = dataset, times
        self.parts = (Part("", self, 0, len(self.packed)),)

    def stored(self, pixels):
        stored = self._dataset.stored(pixels)
        columns = {name: np.tile(getattr(stored, name), self._times) for name in ("shard", "offset", "length")}
        return replace(stored, **columns)


@pytest.mark.parametrize(("order", "most"), [("global", 40), ("windowed", 60)])
def test_an_epoch_starts_with_few_bytes_a_row(dataset, order, most):
    """A Python object for each row would be 100 bytes and more; of 4 million rows, a gigabyte."""
    many = Repeated(dataset, times=2000)
    rows = np.arange(len(many.packed))
    loader = training(many, rows=rows, order=order)
    next(iter(loader))  # once before: what DALI and its pipelines take in Python
    stored = many.stored(JPEG)
    many.stored = lambda pixels: stored
    del loader
    gc.collect()
    tracemalloc.start()
    try:
        loader = training(many, rows=rows, order=order)
        batch = next(iter(loader))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(batch.rows) == 16 and len(rows) == 240_000
    assert peak / len(rows) < most


def test_held_buffers_are_let_go_at_the_end_of_an_epoch(dataset):
    loader = training(dataset, batch=8)
    held = list(loader)
    assert len(loader.buffers) == len(held)
    del held
    for images, _ in loader:
        del images
    assert len(loader.buffers) <= 4


def test_an_older_iteration_cannot_go_on_after_a_newer_one(dataset):
    loader = training(dataset)
    old = iter(loader)
    next(old)
    list(loader)
    with pytest.raises(RuntimeError, match="abandoned by a newer one"):
        next(old)


# ---------------------------------------------------------------- sizes


def test_a_size_that_is_not_stored_is_resized_from_the_nearest_larger(dataset):
    assert nearest_stored(dataset, 50) == RAW and nearest_stored(dataset, 60) == 64
    loader = Loader(dataset, np.arange(20), LoaderOptions(40, batch=20))
    assert loader.resized_from == JPEG
    ((images, rows),) = list(loader)
    assert images.shape == (20, 1, 40, 40)
    for image, row in zip(images.numpy(), rows.tolist(), strict=True):
        reference = cv2.resize(stored_image(dataset, JPEG, row), (40, 40), interpolation=cv2.INTER_AREA)
        assert np.abs(image[0].astype(int) - reference).mean() < 3


def test_a_stored_size_is_not_resized(dataset):
    assert Loader(dataset, np.arange(8), LoaderOptions(JPEG, batch=8)).resized_from is None


def test_resized_images_are_augmented_at_the_stage_s_size(dataset):
    plain = {}
    for images, rows in Loader(dataset, np.arange(120), LoaderOptions(40, batch=40)):
        plain |= dict(zip(rows.tolist(), images.numpy()[:, 0], strict=True))
    options = AugmentOptions(side=0.15)
    rows, images = epoch(training(dataset, size=40, batch=40, augment=options))
    made = decide(options, 0, 0, 0, len(rows), 40)
    for place, row in enumerate(rows):
        assert (images[place, 0] == augmented(plain[row], made, place)).all()


# ---------------------------------------------------------------- errors


def test_too_large_a_size_names_what_is_stored(dataset):
    with pytest.raises(UserError, match=r"no rendition of 65 pixels or more is stored \(stored: 48, 56, 64\)"):
        Loader(dataset, np.arange(8), LoaderOptions(65, batch=8))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch": 0}, "batch 0: at least 1"),
        ({"threads": 0}, "threads 0: at least 1"),
        ({"decode": "gpu"}, r"decode 'gpu': did you mean cpu\? choose one of auto, cpu, mixed, hybrid"),
        ({"decode": "mixed"}, "decode 'mixed' needs a GPU, the device is 'cpu'; use --decode cpu"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        LoaderOptions(**{"size": 48, "batch": 8, **options})


def test_fewer_images_than_a_batch_is_an_error_in_training(dataset):
    with pytest.raises(UserError, match="20 training images make no batch of 32"):
        training(dataset, rows=np.arange(20), batch=32)


@pytest.mark.parametrize("place", [0, 17, 100])
def test_a_damaged_sample_is_named_by_shard_and_key(pack_folder, tmp_path, place):
    copy = tmp_path / "pack"
    shutil.copytree(pack_folder, copy)
    dataset = PackedDataset.open(copy)
    stored = dataset.stored(JPEG)
    path = stored.paths[stored.shard[place]]
    with path.open("r+b") as file:  # the same size, so opening cannot see it
        file.seek(stored.offset[place] + 100)
        file.write(bytes(stored.length[place] - 100))
    loader = Loader(dataset, np.arange(120), LoaderOptions(JPEG, batch=16))
    with pytest.raises(UserError) as caught:
        list(loader)
    assert str(path) in str(caught.value) and dataset.key(place) in str(caught.value)
    assert "cxrdali verify" in str(caught.value)


@dataclass(frozen=True)
class Failing(Augmentation):
    """Raises an error where DALI's come from."""

    error: BaseException
    name: ClassVar[str] = "failing"
    order: ClassVar[int] = 0
    decides: ClassVar[dict] = {}

    def decide(self, seed, epoch, start, count, size):
        return {}

    def steps(self, decided, size):
        raise self.error


@pytest.fixture(scope="module")
def of_dali():
    """What DALI says of half a JPEG in a pipeline of its own: many lines, the cause among the last."""
    from nvidia.dali import fn, pipeline_def

    half = np.frombuffer(simplejpeg.encode_jpeg(np.zeros((48, 48, 1), np.uint8), colorspace="GRAY"), np.uint8)[:150]

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def failing():
        return fn.decoders.image(fn.external_source(source=lambda: [half], batch=True))

    pipeline = failing()
    with pytest.raises(RuntimeError) as raised:
        pipeline.build()
        pipeline.run()
    return str(raised.value)


def failing(dataset, error):
    """What is said of it where DALI works: for a resize."""
    with pytest.raises(UserError) as raised:
        list(Loader(dataset, np.arange(120), LoaderOptions(JPEG - 8, batch=16), augment=(Failing(error),)))
    return str(raised.value)


def test_the_cause_that_dali_names_is_told(dataset, of_dali):
    lines = of_dali.splitlines()
    assert lines[0] == "Critical error in pipeline:" and "in failing" in of_dali
    cause = next(line for line in lines[lines.index("encountered:") + 1 :] if line.strip())
    assert "nvImageCodec" in cause or "decode" in cause
    assert failing(dataset, RuntimeError(of_dali)) == f"{dataset.root}: DALI failed on size 48: {cause.strip()}"
    assert failing(dataset, RuntimeError("one line\nand one more")).endswith("DALI failed on size 48: one line")


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError])
def test_a_full_gpu_is_no_damaged_sample(pack_folder, tmp_path, of_dali, kind):
    """Behind the first batch all images are too low, which DALI does not mind yet: where one is looked for, it is
    found among those in flight."""
    copy = tmp_path / "pack"
    shutil.copytree(pack_folder, copy)
    dataset = PackedDataset.open(copy)
    stored = dataset.stored(JPEG)
    low = simplejpeg.encode_jpeg(np.zeros((40, 48, 1), np.uint8), colorspace="GRAY")
    for row in range(16, 120):
        with stored.paths[stored.shard[row]].open("r+b") as file:
            file.seek(stored.offset[row])
            file.write(low.ljust(stored.length[row], b"\0"))
    assert "is damaged (40 x 48 pixels, Gray)" in failing(dataset, kind("anything else"))
    head, _, tail = of_dali.partition("encountered:")
    cause = "CUDA allocation failed"
    error = kind(f"{head}encountered:\n\n{cause}\n{tail.strip().splitlines()[-1]}")
    assert failing(dataset, error) == (
        f"{copy}: DALI failed on size 48: {cause}; the GPU is full: stop what else runs on the GPU (nvidia-smi lists "
        "it), or use a smaller --micro-batch (to predict, --batch)"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_maps_the_shards_of_the_windows_that_it_has_reached(dataset, rank):
    rows = np.flatnonzero(dataset.packed)
    options = LoaderOptions(RAW, batch=4, order="windowed", window=2)
    loader = Loader(dataset, rows, options, shuffle=True, drop_last=True, rank=rank, world=2)
    assert loader.mapped.mapped == []
    _, windows = loader.epoch_order(0)
    reached = np.concatenate([shards for _, shards in windows[:2]]).tolist()  # 8 shards in all
    assert len(reached) == 4 and windows[2][0] > 50
    batches = iter(loader)
    next(batches)
    assert set(loader.mapped.mapped) & set(windows[0][1].tolist())
    assert set(loader.mapped.mapped) <= set(reached)
    batches.close()


def test_a_rejected_row_cannot_be_loaded(dataset):
    broken = PackedDataset(dataset.root, dataset.info)
    broken.packed[5] = False
    with pytest.raises(UserError, match="row 5 was rejected at packing"):
        Loader(broken, np.arange(10), LoaderOptions(JPEG, batch=5))
