"""How fast do augmented batches arrive, next to the decoder alone and to other loaders over the same images?

    python -m benchmarks.loading.loader [--ffcv PYTHON] [--save]

Held fixed for every contender: machine, images, batch, the augmentation and its probabilities, a consumer that does
nothing. A run is one pass over as many images as the contender hands over in --seconds; every contender has a run in
which its memory is watched and --rounds timed ones, in turn. Each lives in a process of its own, whose workers,
threads and pipelines stay alive between runs, so that no start-up is timed. Contenders:

    JPEG, raw               cxrdali.loader.Loader on packed shards: cutout, flips, hand-over uint8 [B, 1, S, S]; on a
                            GPU in each decode mode
    decode only             JPEG without augmentation: its ceiling
    cached batches          decoded batches handed over and augmented by our loader's copy: the ceiling of raw
    read only               every stored byte copied once by one thread
    DALI's reader           its webdataset reader over the same tars, with its own random operators
    best-effort DataLoader  our hand-over to the pixel, by worker processes: simplejpeg, NumPy cutout, cv2 flips
    WebDataset + OpenCV     the webdataset library over the same tars, OpenCV in worker processes
    FFCV JPEG, FFCV raw     with what it ships, and with flips in place that we compiled for it; three channels, which
                            is all its images have; and gray pixels as plain arrays, which it can store, too; in an
                            environment of its own (--ffcv)
    paper                   DataLoader, OpenCV RGB decode, albumentations, float32 [B, 3, S, S] made in the worker

DataLoaders run with as many workers as there are cores and with twice as many; the faster counts. They read loose
files, one per image: "resized files" are the bytes of our JPEG renditions; "native files" are 2544 x 3056 and shrunk in
the worker. DALI's reader and webdataset shuffle in their own way, all others have the same order.

At the sizes in --cold, those that read files run once more with all files dropped from the page cache before every
run, which is one pass over the images. The disk is what it is: `benchmarks.storage` has slow ones.

A last question: how long does an epoch over --epoch-rows rows take to start, from asking for it to its first batch?
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import results
from benchmarks.effects.drawn import studies_for
from benchmarks.limits import cached_share, drop_from_cache
from benchmarks.loading.contenders import (
    AUGMENT,
    BORROWED,
    DECODE,
    FFCV_GRAY_OURS,
    FFCV_JPEG,
    FFCV_JPEG_OURS,
    FFCV_RAW,
    FFCV_RAW_OURS,
    JPEG,
    LEAN,
    PAPER_NATIVE,
    PAPER_RESIZED,
    RAW,
    READER,
    SEED,
    THREE_CHANNELS,
    WEBDATASET,
    Data,
    Work,
    contenders,
    cores,
    rows,
    with_workers,
)
from benchmarks.loading.ffcv import why_not
from benchmarks.loading.served import Served
from benchmarks.results import Spread, Target
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.rendition import Size
from shards.releases.open import open_release
from shards.releases.release import Release
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

SHARDS = 8  # so that every worker of webdataset has its own
EPOCH_START_SECONDS = 1.0
MOST_CACHED = 0.02  # of the shards' bytes: what a cold run may find in memory
FFCV = "FFCV"


@dataclass(frozen=True)
class Stage:
    """Side in pixels and images per batch."""

    size: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> "Stage":
        size, _, batch = text.partition(":")
        return cls(int(size), int(batch))


# ---------------------------------------------------------------- data


def prepare(options: argparse.Namespace, folder: Path) -> Data:
    """Write the data of all contenders into `folder`, which leaves them in the page cache."""
    sizes = [stage.size for stage in options.stages]
    release = _release(options.source, folder / "release", options.images, max(sizes))
    for name, raw in (("jpeg", False), ("raw", True)):
        wanted = PackOptions(
            sizes=tuple(Size(size, raw) for size in sizes),
            limit=options.images,
            shard_images=math.ceil(options.images / SHARDS),
        )
        pack(release, folder / name, wanted, jobs=cores())
    native = _release(options.native, folder / "native", options.native_images, "native")
    paths = native.images["path"].sort_values()[: options.native_images]
    packed = PackedDataset.open(folder / "jpeg")
    return Data(
        jpeg=folder / "jpeg",
        raw=folder / "raw",
        resized={size: _loose_files(packed, size, folder / "files" / str(size)) for size in sizes},
        native=tuple(native.root / path for path in paths),
    )


def _release(source: Path | None, folder: Path, images: int, size: int | str) -> Release:
    """The given release, or a synthetic one with about as many images."""
    if source is None:
        studies = studies_for(images)
        write_release(folder, SyntheticOptions(studies, size, SEED), jobs=cores())
    return open_release(source or folder)


def _loose_files(dataset: PackedDataset, size: int, folder: Path) -> tuple[Path, ...]:
    """The stored JPEGs of one size as files of their own, by row (a rejected row's is not written)."""
    folder.mkdir(parents=True)
    mapped = MappedSize(dataset.stored(size))
    files = tuple(folder / f"{row}.jpg" for row in range(len(dataset.packed)))
    for row in np.flatnonzero(dataset.packed):
        files[row].write_bytes(mapped[row])
    return files


# ---------------------------------------------------------------- promises


def targets(size: int, workers: int) -> list[Target]:
    """What is promised on 2 cores at 224 and 512 pixels; for other sizes the ratios are printed alone."""
    lean, webdataset = ([with_workers(name, count) for count in (workers, 2 * workers)] for name in (LEAN, WEBDATASET))
    resized, native = (with_workers(name, workers) for name in (PAPER_RESIZED, PAPER_NATIVE))
    known = {224: (1.2, 0.8, 0.97, 2.8, 5, 8, 100, 100), 512: (1.1, 0.8, 0.97, 2.8, 5, 8, None, 100)}
    bounds = known.get(size, (None,) * 8)
    pairs = (
        *((JPEG, lean), (JPEG, [DECODE]), (JPEG, [READER]), (JPEG, [FFCV_JPEG])),
        *((RAW, lean), (RAW, [FFCV_RAW]), (JPEG, [native]), (RAW, [native])),
    )
    promised = [Target(ours, tuple(theirs), bound) for (ours, theirs), bound in zip(pairs, bounds, strict=True)]
    others = ((JPEG, (resized,)), (JPEG, webdataset), (JPEG, (FFCV_JPEG_OURS,)), (RAW, (FFCV_RAW_OURS,)))
    others += ((RAW, (FFCV_GRAY_OURS,)),)
    return [*promised, *(Target(ours, tuple(theirs), None) for ours, theirs in others)]


# ---------------------------------------------------------------- measuring


def measure_stage(data: Data, stage: Stage, options: argparse.Namespace, folder: Path) -> list[dict]:
    """One row per contender, and per target."""
    ffcv = (options.ffcv, folder / "ffcv") if options.ffcv else None
    work = Work(data, stage.size, stage.batch, options.device, options.decode, ffcv)
    wanted, missing = _chosen(work, options)
    print(f"{stage.size} pixels, batches of {stage.batch}")
    with ExitStack() as stack:
        served: dict[str, Served] = {}
        for name, (make, arguments) in wanted.items():
            served[name] = Served(make, *arguments)
            stack.callback(served[name].close)
        found = _warm(served, options)
        if stage.size in options.cold:
            found += _cold({name: each for name, each in served.items() if each.forgets}, folder, data, options)
    notes = {name: {"note": THREE_CHANNELS} for name in served if name.startswith(FFCV)}
    notes[FFCV_GRAY_OURS] = {"note": BORROWED}
    absent = [row for row in found if "not_measured" in row]
    found = [
        {**row, **_pixels(row, stage.size), **notes.get(row["contender"], {})} for row in found if row not in absent
    ]
    results.print_rates([row for row in found if row["cache"] == "warm"])
    if cold := [row for row in found if row["cache"] == "cold"]:
        print("  cold")
        results.print_rates(cold)
    elif absent:
        print(f"  cold: not measured ({absent[0]['not_measured']})")
    medians = {row["contender"]: row["images_per_second"]["median"] for row in found if row["cache"] == "warm"}
    ratios = [target.check(medians, missing) for target in targets(stage.size, cores())]
    for ratio in ratios:
        results.print_target(ratio)
    absent += [{"contender": name, "not_measured": why} for name, why in missing.items()]
    return [{**asdict(stage), **row} for row in (*found, *absent, *ratios)]


def _chosen(work: Work, options: argparse.Namespace) -> tuple[Mapping, dict[str, str]]:
    """The contenders of this run, and why others are not measured."""
    found, missing = {}, {}
    for name, how in contenders(work).items():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        if name.startswith(FFCV) and options.why_no_ffcv:
            missing[name] = options.why_no_ffcv
        else:
            found[name] = how
    return found, missing


def _warm(served: Mapping[str, Served], options: argparse.Namespace) -> list[dict]:
    runs = {name: sized_run(each, options.seconds) for name, each in served.items()}
    peaks = {name: served[name].peak_mib(run) for name, run in runs.items()}
    timed = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            timed[name].append(served[name].timed(run))
    return [
        {
            **results.rate_row(name, timed[name]),
            "cache": "warm",
            "peak_mib": peaks[name],
            "stored_bytes_per_image": each.stored_bytes,
        }
        for name, each in served.items()
    ]


def sized_run(served: Served, seconds: float) -> Callable[[], int]:
    """A run that takes about `seconds`: the rate comes from the second of two short runs."""
    short = served.open(served.step)
    short()
    images = served.timed(short).rate * seconds
    return served.open(max(1, round(images / served.step)) * served.step)


def _cold(served: Mapping[str, Served], folder: Path, data: Data, options: argparse.Namespace) -> list[dict]:
    """A run is one pass over the images, after all files were dropped from the page cache; workers are warm."""
    count = int(PackedDataset.open(data.jpeg).packed.sum())
    runs = {name: each.open(math.ceil(count / each.step) * each.step) for name, each in served.items()}
    for run in runs.values():
        run()
    timed = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            for each in served.values():
                each.forget()
            drop_from_cache(folder)
            left = cached_share([tar for packed in (data.jpeg, data.raw) for tar in packed.rglob("*.tar")])
            if left > MOST_CACHED:
                why = f"{left:.0%} of the shards' bytes stay in memory under {folder}; set TMPDIR to a folder on a disk"
                return [{"contender": each, "cache": "cold", "not_measured": why} for each in served]
            timed[name].append(served[name].timed(run))
    return [
        {
            **results.rate_row(name, timed[name]),
            "cache": "cold",
            "stored_bytes_per_image": each.stored_bytes,
            "read_bytes_per_image": median(run.read_bytes / run.images for run in timed[name]),
        }
        for name, each in served.items()
    ]


def _pixels(row: dict, size: int) -> dict:
    """Megapixels handed over per second."""
    return {"megapixels_per_second": row["images_per_second"]["median"] * size**2 / 1e6}


def measure_epoch_start(data: Data, stage: Stage, options: argparse.Namespace) -> dict:
    """Seconds from asking for an epoch to its first batch: the first epoch, which builds the pipeline, and later."""
    dataset = PackedDataset.open(data.jpeg)
    wanted_rows = rows(dataset, options.epoch_rows)
    wanted = LoaderOptions(size=stage.size, batch=stage.batch, device=options.device, decode=options.decode)
    loader = Loader(dataset, wanted_rows, wanted, seed=SEED, shuffle=True, augment=AUGMENT, drop_last=True)
    seconds = []
    for epoch in range(options.rounds + 1):
        loader.set_epoch(epoch)
        start = time.perf_counter()
        batches = iter(loader)
        next(batches)
        seconds.append(time.perf_counter() - start)
        batches.close()
        _finish_epoch(loader, epoch, len(wanted_rows) // stage.batch * stage.batch)
    later = Spread.of(seconds[1:])
    met = later.median < EPOCH_START_SECONDS
    row = {
        "contender": "start of an epoch",
        **asdict(stage),
        "epoch_rows": len(wanted_rows),
        "first_seconds": seconds[0],
        "seconds": asdict(later),
        "at_most": EPOCH_START_SECONDS,
        "met": met,
    }
    print(
        f"an epoch over {len(wanted_rows):,} rows starts in {later.median:.2f} s ({later.low:.2f} to {later.high:.2f}; "
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading.loader", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stages",
        default="224:256,320:128,384:80,512:48",
        help="SIZE:BATCH,... in pixels and images [%(default)s]",
    )
    parser.add_argument("--cold", default="224,512", help="sizes that run with a cold page cache, too [%(default)s]")
    parser.add_argument("--only", help="beginnings of the contenders to run, such as JPEG,raw,DALI [all]")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each contender [%(default)s]")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a run, about [%(default)s]")
    parser.add_argument("--images", type=int, default=2000, help="different images to pack, at most [%(default)s]")
    parser.add_argument("--native-images", type=int, default=40, help="different native files [%(default)s]")
    parser.add_argument("--epoch-rows", type=int, default=212_000, help="rows of the epoch to start [%(default)s]")
    parser.add_argument("--source", type=Path, metavar="DIR", help="release to pack [a synthetic one]")
    parser.add_argument("--native", type=Path, metavar="DIR", help="release with native files [a synthetic one]")
    parser.add_argument("--device", default="cpu", help="cpu or cuda[:N], where batches are wanted [%(default)s]")
    parser.add_argument("--decode", default="auto", help="auto, cpu, mixed or hybrid [%(default)s]")
    parser.add_argument("--ffcv", type=Path, metavar="PYTHON", help="an interpreter that has FFCV [none: not measured]")
    results.add_save_option(parser, "loader")
    options = parser.parse_args()
    options.stages = [Stage.parse(text) for text in options.stages.split(",")]
    options.cold = [int(text) for text in options.cold.split(",") if text]
    options.only = options.only.split(",") if options.only else []
    return options


def main() -> None:
    options = arguments()
    options.why_no_ffcv = why_not(options.ffcv)
    torch.set_num_threads(1)  # torch's idle threads spin, and would take the cores from the decoder
    environment = results.environment("benchmarks.loading.loader", options.device)
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder = Path(name)
        data = prepare(options, folder)
        images = int(PackedDataset.open(data.jpeg).packed.sum())
        print(f"{environment['cpu']}, {environment['cores']} cores, {images} images")
        found = [row for stage in options.stages for row in measure_stage(data, stage, options, folder)]
        found.append(measure_epoch_start(data, options.stages[0], options))
    source = {"data": str(options.source or "synthetic"), "native": str(options.native or "synthetic")}
    if options.save:
        path = results.save([{**source, **row} for row in found], environment, options.save, "loader")
        print(f"{len(found)} rows -> {path}")


if __name__ == "__main__":
    main()
