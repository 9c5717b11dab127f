"""The baselines of `benchmarks.loading.loader`: a name, and what makes it in a process of its own (`served`)."""

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import torch

from benchmarks.loading.baselines import Pass, lean_loader, paper_loader
from benchmarks.loading.served import Baseline
from cxrdali.data.augment import AugmentOptions, carry_out, decide
from cxrdali.data.loader import Loader, RecycledBuffers, device_id
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import global_order
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset

SEED = 0
NATIVE_BATCH = 16
AUGMENT = AugmentOptions()  # the stage-training paper's
CACHED = 4  # batches that are given again and again
JPEG, RAW, DECODE, CACHE, READ = "JPEG", "raw", "decode only", "cached batches", "read only"
READER, WEBDATASET = "DALI's reader", "WebDataset + OpenCV"
FFCV_JPEG, FFCV_RAW = "FFCV JPEG", "FFCV raw"
FFCV_JPEG_OURS, FFCV_RAW_OURS = "FFCV with our flips, JPEG", "FFCV with our flips, raw"
FFCV_GRAY_OURS = "FFCV with our flips, gray arrays"
LEAN = "best-effort DataLoader"
PAPER_RESIZED, PAPER_NATIVE = "stage-training paper, resized files", "stage-training paper, native files"
THREE_CHANNELS = "its batches have three channels, [B, S, S, 3], in memory that it writes into again"
BORROWED = "its batches are memory that it writes into again"


@dataclass(frozen=True)
class Data:
    """The same images thrice: packed as JPEG, packed raw, and as loose files by row; and files of native size."""

    jpeg: Path
    raw: Path
    resized: dict[int, tuple[Path, ...]]
    native: tuple[Path, ...]


@dataclass(frozen=True)
class Work:
    """size: side in pixels; batch: images; device and decode: as in LoaderOptions; ffcv: an interpreter that has FFCV
    and a folder for its files."""

    data: Data
    size: int
    batch: int
    device: str
    decode: str
    ffcv: tuple[Path, Path] | None = None

    @property
    def pin(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def step(self) -> int:
        """Images in whole rounds of twice as many workers as cores."""
        return self.batch * joblib.cpu_count() * 2

    @property
    def options(self) -> LoaderOptions:
        return LoaderOptions(size=self.size, batch=self.batch, device=self.device, decode=self.decode)


def baselines(work: Work) -> dict[str, tuple[Callable[..., Baseline], tuple]]:
    """What runs at one stage, in the order of the runs: name -> (function, arguments)."""
    some, more = joblib.cpu_count(), 2 * joblib.cpu_count()
    modes = ("mixed", "hybrid") if work.device.startswith("cuda") else ()
    return {
        READ: (read_only, (work,)),
        CACHE: (cached_batches, (work,)),
        DECODE: (ours, (work, False, work.decode, None)),
        JPEG: (ours, (work, False, work.decode, AUGMENT)),
        **{f"{JPEG}, {mode}": (ours, (work, False, mode, AUGMENT)) for mode in modes},
        RAW: (ours, (work, True, work.decode, AUGMENT)),
        READER: (dali_reader, (work,)),
        **{with_workers(LEAN, count): (lean, (work, count)) for count in (some, more)},
        **{with_workers(WEBDATASET, count): (webdataset, (work, count)) for count in (some, more)},
        FFCV_JPEG: (ffcv, (work, "jpeg", "shipped")),
        FFCV_JPEG_OURS: (ffcv, (work, "jpeg", "in place")),
        FFCV_RAW: (ffcv, (work, "raw", "shipped")),
        FFCV_RAW_OURS: (ffcv, (work, "raw", "in place")),
        FFCV_GRAY_OURS: (ffcv, (work, "gray", "in place")),
        with_workers(PAPER_RESIZED, some): (paper_resized, (work, some)),
        with_workers(PAPER_NATIVE, some): (paper_native, (work, some)),
    }


def with_workers(name: str, count: int) -> str:
    return f"{name}, {count} workers"


# ---------------------------------------------------------------- ours


def ours(work: Work, raw: bool, decode: str, augment: AugmentOptions | None) -> Baseline:
    dataset = PackedDataset.open(work.data.raw if raw else work.data.jpeg)
    options = LoaderOptions(size=work.size, batch=work.batch, device=work.device, decode=decode)
    alive: list[Loader] = []

    def open_run(images: int) -> Callable[[], int]:
        alive.clear()
        gc.collect()  # an old pipeline waits for it, and what it has mapped cannot be dropped from the cache
        wanted = rows(dataset, images)
        alive.append(Loader(dataset, wanted, options, seed=SEED, shuffle=True, augment=augment, drop_last=True))

        def run() -> int:
            alive[0].set_epoch(0)  # every run the same order, as in the others
            return consume((batch.images for batch in alive[0]), work.device)

        return run

    return Baseline(open_run, work.step, _stored_bytes(dataset, work.size), forget_mapped)


def read_only(work: Work) -> Baseline:
    """Every byte of an epoch's samples copied once, by one thread, in the order of the epoch."""
    dataset = PackedDataset.open(work.data.jpeg)
    mapped = MappedSize(dataset.stored(work.size))
    room = np.empty(int(mapped.stored.length.max()), dtype=np.uint8)

    def open_run(images: int) -> Callable[[], int]:
        order = global_order(rows(dataset, images), SEED, 0).tolist()

        def run() -> int:
            for row in order:
                stored = mapped[row]
                room[: len(stored)] = stored
            return len(order)

        return run

    return Baseline(open_run, work.step, _stored_bytes(dataset, work.size), forget_mapped)


def cached_batches(work: Work) -> Baseline:
    """Decoded batches are there already: what is left of our loader is the copy that augments."""
    dataset = PackedDataset.open(work.data.jpeg)
    loader = Loader(dataset, rows(dataset, CACHED * work.batch), LoaderOptions(work.size, work.batch))
    ready = [batch.images.numpy().transpose(0, 2, 3, 1) for batch in loader]
    del loader
    gc.collect()  # with it goes what it mapped
    buffers = RecycledBuffers()

    def batches(images: int) -> Iterator[torch.Tensor]:
        for number in range(images // work.batch):
            made = decide(AUGMENT, SEED, 0, number * work.batch, work.batch, work.size)
            out = buffers.take(ready[number % CACHED])
            carry_out(AUGMENT, ready[number % CACHED], made, out)
            yield torch.from_numpy(out)
            del out  # a buffer that is held is not used again

    def open_run(images: int) -> Callable[[], int]:
        return lambda: consume(batches(images), work.device)

    return Baseline(open_run, work.step, float(work.size**2))


# ---------------------------------------------------------------- others


def dali_reader(work: Work) -> Baseline:
    from benchmarks.loading.dalireader import DaliReader, ReaderOptions

    dataset = PackedDataset.open(work.data.jpeg)
    tars = list(dataset.stored(work.size).paths.values())
    options = work.options
    how = (options.resolved_threads, device_id(options), options.resolved_decode)
    wanted = ReaderOptions(work.size, work.batch, *how)
    alive: list[DaliReader] = []

    def start_anew() -> None:
        """The reader runs on between two runs: without this, a cold one would begin with batches made before it."""
        alive[:] = [DaliReader(tars, wanted, AUGMENT, SEED)]

    def open_run(images: int) -> Callable[[], int]:
        start_anew()
        return lambda: consume(alive[0].batches(images // work.batch), work.device)

    return Baseline(open_run, work.step, _stored_bytes(dataset, work.size), start_anew)


def lean(work: Work, workers: int) -> Baseline:
    made = partial(lean_loader, size=work.size, workers=workers, augment=AUGMENT, seed=SEED, pin=work.pin)
    return Baseline(_over_files(work, made), work.step, _file_bytes(work.data.resized[work.size]), lambda: None)


def webdataset(work: Work, workers: int) -> Baseline:
    from benchmarks.loading.webdataset_cv import webdataset_loader

    dataset = PackedDataset.open(work.data.jpeg)
    tars = list(dataset.stored(work.size).paths.values())

    def open_run(images: int) -> Callable[[], int]:
        loader = webdataset_loader(tars, work.batch, images // work.batch, workers, AUGMENT, work.pin)
        return lambda: consume(loader, work.device)

    return Baseline(open_run, work.step, _stored_bytes(dataset, work.size))


def paper_resized(work: Work, workers: int) -> Baseline:
    made = partial(paper_loader, size=work.size, workers=workers, resize=False, pin=work.pin)
    return Baseline(_over_files(work, made), work.step, _file_bytes(work.data.resized[work.size]))


def paper_native(work: Work, workers: int) -> Baseline:
    """Its batches are small, so that a run has several; its rate does not depend on that."""
    files = work.data.native

    def open_run(images: int) -> Callable[[], int]:
        order = global_order(np.resize(np.arange(len(files)), images), SEED, 0)
        loader = paper_loader(Pass(files, _batches(order, NATIVE_BATCH)), work.size, workers, True, work.pin)
        return lambda: consume((batch for batch, _ in loader), work.device)

    return Baseline(open_run, NATIVE_BATCH * workers, _file_bytes(files))


def ffcv(work: Work, mode: str, augment: str) -> Baseline:
    from benchmarks.loading.ffcv import Ffcv, FfcvOptions

    python, folder = work.ffcv
    dataset = PackedDataset.open(work.data.jpeg)
    files = [work.data.resized[work.size][row] for row in np.flatnonzero(dataset.packed)]
    wanted = FfcvOptions(work.size, work.batch, mode, joblib.cpu_count(), augment)
    worker = Ffcv(python, files, folder, wanted)
    return Baseline(worker, work.step, worker.stored_bytes / len(files))


# ---------------------------------------------------------------- what they share


def consume(batches: Iterable[torch.Tensor], device: str) -> int:
    """Wait for every batch to arrive on the device; returns the number of images."""
    images = 0
    for batch in batches:
        images += len(batch.to(device, non_blocking=True))  # nothing, where it is there already
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return images


def rows(dataset: PackedDataset, count: int) -> np.ndarray:
    """The packed rows, over and over until there are `count`."""
    return np.resize(np.flatnonzero(dataset.packed), count)


def _over_files(work: Work, loader: Callable[[Pass], Iterable]) -> Callable[[int], Callable[[], int]]:
    """Runs over the resized files, of which `loader` makes batches with their rows."""

    def open_run(images: int) -> Callable[[], int]:
        order = global_order(rows(PackedDataset.open(work.data.jpeg), images), SEED, 0)
        made = loader(Pass(work.data.resized[work.size], _batches(order, work.batch)))
        return lambda: consume((batch for batch, _ in made), work.device)

    return open_run


def _batches(order: np.ndarray, batch: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(order[start : start + batch].tolist()) for start in range(0, len(order), batch))


def _stored_bytes(dataset: PackedDataset, size: int) -> float:
    return float(dataset.stored(size).length[dataset.packed].mean())


def _file_bytes(files: tuple[Path, ...]) -> float:
    return float(np.mean([path.stat().st_size for path in files if path.exists()]))


def forget_mapped() -> None:
    """Let go of every page that this process has mapped of shards, so that the kernel can drop it from the cache."""
    for each in gc.get_objects():
        if isinstance(each, MappedSize):
            for shard in each.stored.paths:
                each.forget(shard)
