"""How fast do augmented batches arrive, next to the decoder alone and to other loaders over the same images?

    python -m benchmarks.loading.loader [--ffcv PYTHON] [--save]

A run is one pass over as many images as come out in --seconds; every baseline has a run in which its memory is watched
and --rounds timed ones, in turn, in a process of its own. README.md says what is held fixed. Baselines:

    JPEG, raw               cxrdali.data.loader.Loader on packed shards: cutout, flips, output batch uint8
                            [B, 1, S, S]; on a GPU in each decode mode
    decode only             JPEG without augmentation: its ceiling
    cached batches          decoded batches augmented by our loader's copy: the ceiling of raw
    read only               every stored byte copied once by one thread
    DALI's reader           its webdataset reader over the same tars, with its own random operators
    best-effort DataLoader  our output batch to the pixel, by worker processes: simplejpeg, NumPy cutout, cv2 flips
    WebDataset + OpenCV     the webdataset library over the same tars, OpenCV in worker processes
    FFCV JPEG, FFCV raw     with what it ships, and with flips in place that we compiled for it; three channels, which
                            is all its images have; and gray pixels as plain arrays, which it can store, too; in an
                            environment of its own (--ffcv)
    stage-training paper    DataLoader, OpenCV RGB decode, albumentations, float32 [B, 3, S, S] made in the worker

DataLoaders read loose files, one per image: "resized files" are the bytes of our JPEG renditions; "native files" are
2544 x 3056 and shrunk in the worker. The disk is what it is; slow ones: docs/storage.md.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import joblib
import numpy as np
import torch

from benchmarks import datasets, results
from benchmarks.loading import registry
from benchmarks.loading.ffcv import why_not
from benchmarks.loading.registry import Data, Work, with_workers
from benchmarks.loading.served import Served
from benchmarks.options import STAGES, Options, Stage, listed, option, parse
from benchmarks.page_cache import cached_share, drop_from_cache
from benchmarks.results import Run, Target
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.releases.open import open_release

SHARDS = 8  # so that every worker of webdataset has its own
MOST_CACHED = 0.02  # of the shards' bytes: what a cold run may find in memory
FFCV = "FFCV"


@dataclass(frozen=True)
class LoaderRun(Options):
    """What is measured."""

    stages: tuple[Stage, ...] = option("224:256,320:128,384:80,512:48", "SIZE:BATCH,... in pixels and images", STAGES)
    cold: tuple[int, ...] = option("224,512", "sizes that run with a cold page cache, too", listed(int))
    only: tuple[str, ...] = option("", "beginnings of the baselines to run, such as JPEG,raw,DALI [all]", listed(str))
    rounds: int = option(5, "timed runs of each baseline")
    seconds: float = option(2.0, "length of a run, about")
    images: int = option(2000, "different images to pack, at most")
    native_images: int = option(40, "different native files")
    source: Path | None = option(None, "release to pack [a synthetic one]", Path)
    native: Path | None = option(None, "release with native files [a synthetic one]", Path)
    device: str = option("cpu", "cpu or cuda[:N], where batches are wanted")
    decode: str = option("auto", "auto, cpu, mixed or hybrid")
    ffcv: Path | None = option(None, "an interpreter that has FFCV [none: not measured]", Path)


# ---------------------------------------------------------------- data


def prepare(options: LoaderRun, folder: Path) -> Data:
    """Write the data of all baselines into `folder`, which leaves them in the page cache."""
    sizes = [stage.size for stage in options.stages]
    release = options.source or datasets.synthetic(folder / "release", datasets.studies_for(options.images), max(sizes))
    few = {"limit": options.images, "shard_images": math.ceil(options.images / SHARDS)}
    packed = datasets.packed(release, folder / "jpeg", sizes, **few)
    datasets.packed(release, folder / "raw", sizes, raw=True, **few)
    native = options.native or datasets.synthetic(
        folder / "native", datasets.studies_for(options.native_images), "native", registry.SEED
    )
    paths = open_release(native).images["path"].sort_values()[: options.native_images]
    return Data(
        jpeg=folder / "jpeg",
        raw=folder / "raw",
        resized={size: _loose_files(packed, size, folder / "files" / str(size)) for size in sizes},
        native=tuple(native / path for path in paths),
    )


def _loose_files(dataset: PackedDataset, size: int, folder: Path) -> tuple[Path, ...]:
    """The stored JPEGs of one size as files of their own, by row (a rejected row's is not written)."""
    folder.mkdir(parents=True)
    mapped = MappedSize(dataset.stored(size))
    files = tuple(folder / f"{row}.jpg" for row in range(len(dataset.packed)))
    for row in np.flatnonzero(dataset.packed):
        files[row].write_bytes(mapped[row])
    return files


# ---------------------------------------------------------------- targets


def targets(size: int, workers: int) -> list[Target]:
    """What is to be reached on 2 cores at 224 and 512 pixels; for other sizes the ratios are printed alone."""
    r, (one, two) = registry, (workers, 2 * workers)
    lean, webdataset = ([with_workers(name, count) for count in (one, two)] for name in (r.LEAN, r.WEBDATASET))
    resized, native = (with_workers(name, workers) for name in (r.PAPER_RESIZED, r.PAPER_NATIVE))
    known = {224: (1.2, 0.8, 0.97, 2.8, 5, 8, 100, 100), 512: (1.1, 0.8, 0.97, 2.8, 5, 8, None, 100)}
    pairs = (
        *((r.JPEG, lean), (r.JPEG, [r.DECODE]), (r.JPEG, [r.READER]), (r.JPEG, [r.FFCV_JPEG])),
        *((r.RAW, lean), (r.RAW, [r.FFCV_RAW]), (r.JPEG, [native]), (r.RAW, [native])),
        *((r.JPEG, [resized]), (r.JPEG, webdataset), (r.JPEG, [r.FFCV_JPEG_OURS]), (r.RAW, [r.FFCV_RAW_OURS])),
        (r.RAW, [r.FFCV_GRAY_OURS]),
    )
    bounds = (*known.get(size, (None,) * 8), *(None,) * 5)
    return [Target(ours, tuple(theirs), bound) for (ours, theirs), bound in zip(pairs, bounds, strict=True)]


# ---------------------------------------------------------------- measuring


def measure_stage(data: Data, stage: Stage, options: LoaderRun, folder: Path) -> list[dict]:
    """One row per baseline, and per target."""
    ffcv = (options.ffcv, folder / "ffcv") if options.ffcv else None
    wanted, missing = _chosen(Work(data, stage.size, stage.batch, options.device, options.decode, ffcv), options)
    print(f"{stage.size} pixels, batches of {stage.batch}")
    with ExitStack() as stack:
        served: dict[str, Served] = {}
        for name, (make, arguments) in wanted.items():
            served[name] = Served(make, *arguments)
            stack.callback(served[name].close)
        warm, cold = _warm(served, options), []
        if stage.size in options.cold:
            cold = _cold({name: each for name, each in served.items() if each.forgets}, folder, data, options)
    absent = [row for row in cold if "not_measured" in row]
    warm, cold = ([_with_more(row, stage.size) for row in rows if row not in absent] for rows in (warm, cold))
    results.print_rates(warm)
    if cold:
        print("  cold")
        results.print_rates(cold)
    elif absent:
        print(f"  cold: not measured ({absent[0]['not_measured']})")
    medians = {row["baseline"]: results.median_rate(row) for row in warm}
    ratios = [target.check(medians, missing) for target in targets(stage.size, joblib.cpu_count())]
    for ratio in ratios:
        results.print_target(ratio)
    absent += [{"baseline": name, "not_measured": why} for name, why in missing.items()]
    return [{**asdict(stage), **row} for row in (*warm, *cold, *absent, *ratios)]


def _chosen(work: Work, options: LoaderRun) -> tuple[Mapping, dict[str, str]]:
    """The baselines of this run, and why others are not measured."""
    found, missing, why_no_ffcv = {}, {}, why_not(options.ffcv)
    for name, how in registry.baselines(work).items():
        if options.only and not name.startswith(options.only):
            continue
        if name.startswith(FFCV) and why_no_ffcv:
            missing[name] = why_no_ffcv
        else:
            found[name] = how
    return found, missing


def _with_more(row: dict, size: int) -> dict:
    """With megapixels per second, and what the batches of FFCV are."""
    name = row["baseline"]
    note = registry.BORROWED if name == registry.FFCV_GRAY_OURS else registry.THREE_CHANNELS
    pixels = {"megapixels_per_second": row["images_per_second"]["median"] * size**2 / 1e6}
    return row | pixels | ({"note": note} if name.startswith(FFCV) else {})


def _warm(served: Mapping[str, Served], options: LoaderRun) -> list[dict]:
    runs = {name: sized_run(each, options.seconds) for name, each in served.items()}
    peaks = {name: served[name].peak_mib(run) for name, run in runs.items()}
    timed = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            timed[name].append(served[name].timed(run))
    return [_row(name, each, timed[name], cache="warm", peak_mib=peaks[name]) for name, each in served.items()]


def _row(name: str, baseline: Served, runs: Sequence[Run], **more: object) -> dict:
    return results.rate_row(name, runs) | more | {"stored_bytes_per_image": baseline.stored_bytes}


def sized_run(served: Served, seconds: float) -> Callable[[], int]:
    """A run that takes about `seconds`: the rate comes from the second of two short runs."""
    short = served.open(served.step)
    short()
    images = served.timed(short).rate * seconds
    return served.open(max(1, round(images / served.step)) * served.step)


def _cold(served: Mapping[str, Served], folder: Path, data: Data, options: LoaderRun) -> list[dict]:
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
                return [{"baseline": each, "cache": "cold", "not_measured": why} for each in served]
            timed[name].append(served[name].timed(run))
    read = {name: median(run.read_bytes / run.images for run in runs) for name, runs in timed.items()}
    rows = [_row(name, each, timed[name], cache="cold") for name, each in served.items()]
    return [row | {"read_bytes_per_image": read[row["baseline"]]} for row in rows]


def main() -> None:
    options = parse(LoaderRun, "benchmarks.loading.loader", __doc__.splitlines()[0])
    torch.set_num_threads(1)  # torch's idle threads spin, and would take the cores from the decoder
    environment = results.environment("benchmarks.loading.loader", options.device)
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder = Path(name)
        data = prepare(options, folder)
        images = int(PackedDataset.open(data.jpeg).packed.sum())
        print(f"{environment['cpu']}, {environment['cores']} cores, {images} images")
        found = [row for stage in options.stages for row in measure_stage(data, stage, options, folder)]
    source = {"data": str(options.source or "synthetic"), "native": str(options.native or "synthetic")}
    results.save([source | row for row in found], environment, options.save, "loader")


if __name__ == "__main__":
    main()
