"""How fast do augmented batches arrive, next to the decoder alone and to other loaders over the same images?

    python -m benchmarks.peers --install DIR      the peers that need an environment of their own
    python -m benchmarks.peers --envs DIR [--save]

A run is one pass over as many images as come out in --seconds. Every baseline lives in a process of its own; before
its clock starts, its images are compared with the stored ones, and its settings (workers or threads: as many as cores
or twice as many) are tried and the fastest kept. Then it has a run in which its memory is watched, and --rounds timed
ones, in turn. README.md says what is held fixed. Baselines:

    JPEG, raw               cxrdali.data.loader.Loader on packed shards: cutout, flips, output batch uint8
                            [B, 1, S, S]; on a GPU in each decode mode
    decode only, cached batches, read only    the ceilings of JPEG (without augmentation), of raw (decoded batches
                            augmented by our loader's copy), and of both (stored bytes copied by one thread)
    the others              a file each in this folder, which says how it stores and how it reads

DataLoaders read loose files, one per image: "resized files" are the bytes of our JPEG renditions; "native files" are
2544 x 3056 and shrunk in the worker. The disk is what it is; slow ones: docs/storage.md.
"""

import math
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import datasets, results
from benchmarks.options import STAGES, Options, Stage, listed, option, parse
from benchmarks.peers import measure
from benchmarks.peers.install import install
from benchmarks.peers.measure import Timing
from benchmarks.peers.registry import baselines, targets
from benchmarks.peers.work import SEED, Data, Work
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.releases.open import open_release

SHARDS = 8  # so that every worker of webdataset has its own
START = 5.0  # seconds to start, check and size one baseline's process, about


@dataclass(frozen=True)
class PeersRun(Options):
    """What is measured."""

    install: Path | None = option(None, "make the peers' environments there, measure nothing", Path)
    envs: Path | None = option(None, "where --install made them [none: those peers are not measured]", Path)
    stages: tuple[Stage, ...] = option("224:256,512:48", "SIZE:BATCH,... in pixels and images", STAGES)
    cold: tuple[int, ...] = option("", "sizes that run with a cold page cache, too [none]", listed(int))
    only: tuple[str, ...] = option("", "beginnings of the baselines to run, such as JPEG,raw,DALI [all]", listed(str))
    rounds: int = option(5, "timed runs of each baseline")
    seconds: float = option(1.0, "length of a run, about")
    images: int = option(2000, "different images to pack, at most")
    native_images: int = option(40, "different native files")
    source: Path | None = option(None, "release to pack [a synthetic one]", Path)
    native: Path | None = option(None, "release with native files [a synthetic one]", Path)
    device: str = option("cpu", "cpu or cuda[:N], where batches are wanted")
    decode: str = option("auto", "auto, cpu, mixed or hybrid")


def prepare(options: PeersRun, folder: Path) -> Data:
    """Write the data of all baselines into `folder`, which leaves them in the page cache."""
    sizes = [stage.size for stage in options.stages]
    release = options.source or datasets.synthetic(folder / "release", datasets.studies_for(options.images), max(sizes))
    few = {"limit": options.images, "shard_images": math.ceil(options.images / SHARDS)}
    packed = datasets.packed(release, folder / "jpeg", sizes, **few)
    datasets.packed(release, folder / "raw", sizes, raw=True, **few)
    native = options.native or datasets.synthetic(
        folder / "native", datasets.studies_for(options.native_images), "native", SEED
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


def measure_stage(data: Data, stage: Stage, options: PeersRun, folder: Path) -> list[dict]:
    """One row per baseline, and per target."""
    work = Work(data, stage.size, stage.batch, options.device, options.decode, folder / "peers")
    wanted = {
        name: how
        for name, how in baselines(options.device).items()
        if not options.only or name.startswith(options.only)
    }
    timing = Timing(options.rounds, options.seconds, options.envs)
    print(f"{stage.size} pixels, batches of {stage.batch}: {_minutes(wanted, options):.0f} minutes, about", flush=True)
    with ExitStack() as stack:
        found, missing = measure.start(work, wanted, timing, stack)
        warm, cold = measure.warm(found, timing), []
        if stage.size in options.cold:
            cold = measure.cold(found, work, folder, options.rounds)
    absent = [row for row in cold if "not_measured" in row]
    warm, cold = ([_with_pixels(row, stage.size) for row in rows if row not in absent] for rows in (warm, cold))
    results.print_rates(warm)
    if cold:
        print("  cold")
        results.print_rates(cold)
    elif absent:
        print(f"  cold: not measured ({absent[0]['not_measured']})")
    medians = {row["baseline"]: results.median_rate(row) for row in warm}
    ratios = [target.check(medians, missing) for target in targets(stage.size, medians)]
    for ratio in ratios:
        results.print_target(ratio)
    absent += [{"baseline": name, "not_measured": why} for name, why in missing.items()]
    return [{**asdict(stage), **row} for row in (*warm, *cold, *absent, *ratios)]


def _minutes(wanted: dict, options: PeersRun) -> float:
    starts = sum(len(how.variants) for how in wanted.values()) * (START + 2 * options.seconds)
    return (starts + len(wanted) * (options.rounds + 1) * options.seconds) / 60


def _with_pixels(row: dict, size: int) -> dict:
    return row | {"megapixels_per_second": row["images_per_second"]["median"] * size**2 / 1e6}


def main() -> None:
    options = parse(PeersRun, "benchmarks.peers", __doc__.splitlines()[0])
    if options.install:
        install(options.install)
        return
    torch.set_num_threads(1)  # torch's idle threads spin, and would take the cores from the decoder
    environment = results.environment("benchmarks.peers", options.device)
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder = Path(name)
        print("making and packing images ...", flush=True)
        data = prepare(options, folder)
        images = int(PackedDataset.open(data.jpeg).packed.sum())
        print(f"{environment['cpu']}, {environment['cores']} cores, {images} images", flush=True)
        source = {"data": str(options.source or "synthetic"), "native": str(options.native or "synthetic")}
        for stage in options.stages:  # saved one by one: a size takes minutes
            found = measure_stage(data, stage, options, folder)
            results.save([source | row for row in found], environment, options.save, "loader")


if __name__ == "__main__":
    main()
