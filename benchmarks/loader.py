"""How fast do augmented batches arrive, next to the decoder alone and to other loaders over the same images?

    python -m benchmarks.loader [--save]

Held fixed for every contender: machine, images, order, batch, the augmentation and its probabilities, a warm
page cache, a consumer that does nothing. A run is one pass over as many images as the contender hands over in
--seconds; every contender has one run thrown away and --rounds timed ones, in turn. Workers, threads and
pipelines stay alive between runs, so that no start-up is timed. Contenders:

    JPEG, raw             cxrdali.loader.Loader on packed shards: cutout, flips, hand-over uint8 [B, 1, S, S]
    decode only           the same without augmentation: the ceiling of JPEG
    best-effort DataLoader  our hand-over to the pixel, by worker processes: simplejpeg, NumPy cutout, cv2 flips
    paper                 DataLoader, OpenCV RGB decode, albumentations, float32 [B, 3, S, S] made in the worker

The DataLoaders read loose files, one per image: the paper's with as many workers as there are cores, the
best-effort one with as many and with twice as many. "resized files" are the bytes of our JPEG renditions;
"native files" are 2544 x 3056 and shrunk in the worker. Native batches are small, so that a run has several;
their rate does not depend on it.

A second question: how long does an epoch over --epoch-rows rows take to start, from asking for it to its first batch?
"""

import argparse
import math
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import results
from benchmarks.baselines import Pass, lean_loader, paper_loader
from benchmarks.results import Spread, Target
from cxrdali.augment import AugmentOptions
from cxrdali.loader import Loader, LoaderOptions
from cxrdali.order import global_order
from shards.pack import PackOptions, pack
from shards.packed import MappedSize, PackedDataset
from shards.release import Release, open_release
from shards.rendition import Size
from shards.synthetic import SyntheticOptions, write_release

SEED = 0
IMAGES_PER_STUDY = 1.6  # of a synthetic release, rounded down
NATIVE_BATCH = 16
AUGMENT = AugmentOptions()  # the paper's
EPOCH_START_SECONDS = 1.0
PRELOAD = ["benchmarks.baselines", "shards.pack", "shards.synthetic", "albumentations.pytorch"]  # once for all workers
JPEG, RAW, DECODE = "JPEG", "raw", "decode only"

Open = Callable[[int], Callable[[], int]]  # images of a run -> the run, which returns how many it handed over


@dataclass(frozen=True)
class Stage:
    """Side in pixels and images per batch."""

    size: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> "Stage":
        size, _, batch = text.partition(":")
        return cls(int(size), int(batch))


@dataclass(frozen=True)
class Data:
    """The same images thrice: packed as JPEG, packed raw, and as loose files by row; and files of native size."""

    jpeg: PackedDataset
    raw: PackedDataset
    resized: dict[int, tuple[Path, ...]]
    native: tuple[Path, ...]


@dataclass(frozen=True)
class Contender:
    """`step`: images of a run are a multiple of it, so that every worker has the same number of whole batches."""

    open: Open
    step: int


# ---------------------------------------------------------------- data


def prepare(options: argparse.Namespace, folder: Path) -> Data:
    """Write the data of all contenders into `folder`, which leaves them in the page cache."""
    sizes = [stage.size for stage in options.stages]
    release = _release(options.source, folder / "release", options.images, max(sizes))
    packed = {}
    for name, raw in (("jpeg", False), ("raw", True)):
        wanted = PackOptions(sizes=tuple(Size(size, raw) for size in sizes), limit=options.images)
        pack(release, folder / name, wanted, jobs=_cores(), progress=False)
        packed[name] = PackedDataset.open(folder / name)
    native = _release(options.native, folder / "native", options.native_images, "native")
    paths = native.images["path"].sort_values()[: options.native_images]
    return Data(
        jpeg=packed["jpeg"],
        raw=packed["raw"],
        resized={size: _loose_files(packed["jpeg"], size, folder / "files" / str(size)) for size in sizes},
        native=tuple(native.root / path for path in paths),
    )


def _release(source: Path | None, folder: Path, images: int, size: int | str) -> Release:
    """The given release, or a synthetic one with about as many images."""
    if source is None:
        studies = math.ceil(images / IMAGES_PER_STUDY)
        write_release(folder, SyntheticOptions(studies, size, SEED), jobs=_cores(), progress=False)
    return open_release(source or folder)


def _loose_files(dataset: PackedDataset, size: int, folder: Path) -> tuple[Path, ...]:
    """The stored JPEGs of one size as files of their own, by row (a rejected row's is not written)."""
    folder.mkdir(parents=True)
    mapped = MappedSize(dataset.stored(size))
    files = tuple(folder / f"{row}.jpg" for row in range(len(dataset.packed)))
    for row in np.flatnonzero(dataset.packed):
        files[row].write_bytes(mapped[row])
    return files


def _rows(dataset: PackedDataset, count: int) -> np.ndarray:
    """The packed rows, over and over until there are `count`."""
    return np.resize(np.flatnonzero(dataset.packed), count)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


# ---------------------------------------------------------------- contenders


def contenders(data: Data, stage: Stage, device: str, decode: str) -> dict[str, Contender]:
    """What runs at one stage, in the order of the runs."""
    options = LoaderOptions(size=stage.size, batch=stage.batch, device=device, decode=decode)
    workers = len(os.sched_getaffinity(0))
    pin = device.startswith("cuda")
    step = stage.batch * workers * 2  # whole rounds of twice as many workers

    def ours(dataset: PackedDataset, augment: AugmentOptions | None) -> Contender:
        return Contender(lambda images: _our_run(dataset, options, augment, images), step)

    def lean(workers: int) -> Contender:
        return Contender(
            lambda images: _run(
                lean_loader(_resized_pass(data, stage, images), stage.size, workers, AUGMENT, SEED, pin), device
            ),
            step,
        )

    def paper(wanted: Callable[[int], Pass], resize: bool, step: int) -> Contender:
        return Contender(
            lambda images: _run(paper_loader(wanted(images), stage.size, workers, resize, pin), device), step
        )

    return {
        DECODE: ours(data.jpeg, None),
        JPEG: ours(data.jpeg, AUGMENT),
        RAW: ours(data.raw, AUGMENT),
        **{name: lean(count) for name, count in zip(_lean_names(workers), (workers, 2 * workers), strict=True)},
        _paper_name(workers, "resized"): paper(lambda images: _resized_pass(data, stage, images), False, step),
        _paper_name(workers, "native"): paper(
            lambda images: _native_pass(data.native, images), True, NATIVE_BATCH * workers
        ),
    }


def targets(size: int, workers: int) -> list[Target]:
    """What is promised on 2 cores at 224 and 512 pixels; for other sizes the ratios are printed alone."""
    lean = _lean_names(workers)
    resized, native = (_paper_name(workers, files) for files in ("resized", "native"))
    bounds = {224: (0.7, 7, 100, 1, 4), 512: (0.7, 7, None, 1, 4)}.get(size, (None,) * 5)
    pairs = ((JPEG, (DECODE,)), (JPEG, (resized,)), (JPEG, (native,)), (JPEG, lean), (RAW, lean))
    return [Target(ours, theirs, bound) for (ours, theirs), bound in zip(pairs, bounds, strict=True)]


def _lean_names(workers: int) -> tuple[str, str]:
    return tuple(f"best-effort DataLoader, {count} workers" for count in (workers, 2 * workers))


def _paper_name(workers: int, files: str) -> str:
    return f"paper, {files} files, {workers} workers"


def _our_run(
    dataset: PackedDataset, options: LoaderOptions, augment: AugmentOptions | None, images: int
) -> Callable[[], int]:
    rows = _rows(dataset, images)
    loader = Loader(dataset, rows, options, seed=SEED, shuffle=True, augment=augment, drop_last=True)

    def first_epoch() -> Iterator:
        loader.set_epoch(0)  # every run the same order, as in the other contenders
        return iter(loader)

    return lambda: _consume(first_epoch(), options.device)


def _run(loader: Iterable, device: str) -> Callable[[], int]:
    return lambda: _consume(loader, device)


def _consume(batches: Iterable, device: str) -> int:
    """Wait for every batch to arrive on the device; returns the number of images."""
    images = 0
    for batch, rows in batches:
        batch.to(device, non_blocking=True)  # nothing, where it is there already
        images += len(rows)
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return images


def _resized_pass(data: Data, stage: Stage, images: int) -> Pass:
    order = global_order(_rows(data.jpeg, images), SEED, 0)
    return Pass(data.resized[stage.size], _batches(order, stage.batch))


def _native_pass(files: tuple[Path, ...], images: int) -> Pass:
    order = global_order(np.resize(np.arange(len(files)), images), SEED, 0)
    return Pass(files, _batches(order, NATIVE_BATCH))


def _batches(order: np.ndarray, batch: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(order[start : start + batch].tolist()) for start in range(0, len(order), batch))


# ---------------------------------------------------------------- measuring


def measure_stage(data: Data, stage: Stage, options: argparse.Namespace) -> list[dict]:
    """One row per contender and one per target."""
    found = contenders(data, stage, options.device, options.decode)
    runs = {name: sized_run(contender, options.seconds) for name, contender in found.items()}
    timed = results.interleaved(runs, options.rounds)
    rates = [results.rate_row(name, timed[name]) for name in found]
    workers = len(os.sched_getaffinity(0))
    medians = {row["contender"]: row["images_per_second"]["median"] for row in rates}
    ratios = [target.check(medians) for target in targets(stage.size, workers)]
    print(f"{stage.size} pixels, batches of {stage.batch}")
    results.print_rates(rates)
    for ratio in ratios:
        results.print_target(ratio)
    return [{**asdict(stage), **row} for row in (*rates, *ratios)]


def sized_run(contender: Contender, seconds: float) -> Callable[[], int]:
    """A run that takes about `seconds`: the rate comes from the second of two short runs."""
    short = contender.open(contender.step)
    short()
    images = results.timed(short).rate * seconds
    return contender.open(max(1, round(images / contender.step)) * contender.step)


def measure_epoch_start(data: Data, stage: Stage, options: argparse.Namespace) -> dict:
    """Seconds from asking for an epoch to its first batch: the first epoch, which builds the pipeline, and later."""
    rows = _rows(data.jpeg, options.epoch_rows)
    wanted = LoaderOptions(size=stage.size, batch=stage.batch, device=options.device, decode=options.decode)
    loader = Loader(data.jpeg, rows, wanted, seed=SEED, shuffle=True, augment=AUGMENT, drop_last=True)
    seconds = []
    for epoch in range(options.rounds + 1):
        loader.set_epoch(epoch)
        start = time.perf_counter()
        batches = iter(loader)
        next(batches)
        seconds.append(time.perf_counter() - start)
        batches.close()
        _finish_epoch(loader, epoch, len(rows) // stage.batch * stage.batch)
    later = Spread.of(seconds[1:])
    met = later.median < EPOCH_START_SECONDS
    row = {
        "contender": "start of an epoch",
        **asdict(stage),
        "epoch_rows": len(rows),
        "first_seconds": seconds[0],
        "seconds": asdict(later),
        "at_most": EPOCH_START_SECONDS,
        "met": met,
    }
    print(
        f"an epoch over {len(rows):,} rows starts in {later.median:.2f} s ({later.low:.2f} to {later.high:.2f}; "
        f"the first, with its pipeline, {seconds[0]:.2f} s)   under {EPOCH_START_SECONDS:g} s   "
        f"{'PASS' if met else 'MISS'}"
    )
    return row


def _finish_epoch(loader: Loader, epoch: int, samples: int) -> None:
    """Read the epoch's last batch, after which the pipeline is ready for the next epoch as in training."""
    loader.load_state_dict({"epoch": epoch, "position": samples - loader.options.batch})
    for _ in loader:
        pass


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.splitlines()[0])
    parser.add_argument("--stages", default="224:256,512:48", help="SIZE:BATCH,... in pixels and images [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each contender [%(default)s]")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a run, about [%(default)s]")
    parser.add_argument("--images", type=int, default=1000, help="different images to pack, at most [%(default)s]")
    parser.add_argument("--native-images", type=int, default=40, help="different native files [%(default)s]")
    parser.add_argument("--epoch-rows", type=int, default=212_000, help="rows of the epoch to start [%(default)s]")
    parser.add_argument("--source", type=Path, metavar="DIR", help="release to pack [a synthetic one]")
    parser.add_argument("--native", type=Path, metavar="DIR", help="release with native files [a synthetic one]")
    parser.add_argument("--device", default="cpu", help="cpu or cuda[:N], where batches are wanted [%(default)s]")
    parser.add_argument("--decode", default="auto", help="auto, cpu, mixed or hybrid [%(default)s]")
    results.add_save_option(parser, "loader")
    options = parser.parse_args()
    options.stages = [Stage.parse(text) for text in options.stages.split(",")]
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)  # torch's idle threads spin, and would take the cores from the decoder
    cv2.setNumThreads(0)
    multiprocessing.set_forkserver_preload(PRELOAD)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # twice the cores is on purpose
    environment = results.environment("benchmarks.loader", options.device)
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
        data = prepare(options, Path(folder))
        print(f"{environment['cpu']}, {environment['cores']} cores, {int(data.jpeg.packed.sum())} images, warm cache")
        rows = [row for stage in options.stages for row in measure_stage(data, stage, options)]
        rows.append(measure_epoch_start(data, options.stages[0], options))
    source = {"data": str(options.source or "synthetic"), "native": str(options.native or "synthetic")}
    if options.save:
        path = results.save([{**source, **row} for row in rows], environment, options.save, "loader")
        print(f"{len(rows)} rows -> {path}")


if __name__ == "__main__":
    main()
