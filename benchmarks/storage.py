"""At what part of a slow disk's own speed do batches arrive from data that does not fit in memory?

    python -m benchmarks.storage [--save]         as root: the disk and the memory are limited on purpose

The disk gives --rate MB/s and --operations reads a second, as a cloud volume or a busy network disk does; the process
and the page cache of what it reads have --memory-mib together, which is less than the data (raw renditions). A run is
one augmented epoch in a process of its own, nothing in the page cache before it, a consumer that does nothing; runs
take turns:

    sequential read          every shard in order in pieces of 1 MiB: what the disk can do
    windowed                 the loader with --order windowed
    windowed, no read-ahead  the same order by page faults
    global                   the loader with --order global

A window is --window shards; two of them, the one in use and the next, have to fit in memory beside the process.
Without root (loop device, control groups) disk and memory are taken as they are, and the rows say so.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import datasets, results
from benchmarks.limits import Limits, drop_from_cache, limited, loop_disk
from benchmarks.options import Options, option, parse
from benchmarks.results import Spread, Target
from benchmarks.storage_run import BARE, BASELINES, GLOBAL, READ, WINDOWED
from shards.dataset.packed import PackedDataset

SIDE, MADE = 320, 224  # pixels: of the renditions, and of the pictures that they are enlarged from
FASTEST = 0.9  # windowed, of the sequential rate
FLAT = 1.05  # the process's own memory at its highest, of what it is after a tenth of the epoch
DISK_ROOM = 1.3  # times the bytes of the shards


@dataclass(frozen=True)
class StorageRun(Options):
    """What is measured."""

    rate: float = option(100.0, "of the disk, MB/s")
    operations: int = option(500, "of the disk, reads a second")
    memory_mib: int = option(640, "for process and page cache")
    images: int = option(8000, "images to pack, at most")
    shard_images: int = option(125, "most images in a shard")
    window: int = option(4, "shards of a window")
    batch: int = option(32, "images in a batch")
    rounds: int = option(3, "runs of each baseline")
    no_limits: bool = option(False, "take disk and memory as they are")


@dataclass(frozen=True)
class Place:
    """Where the data lies and what limits a run. enter: what a new process calls first, None without a limit."""

    folder: Path
    enter: Callable[[], None] | None
    limits: dict | None
    not_limited: str | None


def prepare(options: StorageRun, folder: Path) -> Path:
    """The packed dataset. Its pictures are enlarged: their bytes count, not what is seen."""
    release = datasets.synthetic(folder / "release", datasets.studies_for(options.images), MADE)
    few = {"shard_images": options.shard_images, "limit": options.images}
    datasets.packed(release, folder / "pack", (SIDE,), raw=True, **few)
    shutil.rmtree(release)
    return folder / "pack"


def place(stack: ExitStack, packed: Path, options: StorageRun, folder: Path) -> Place:
    """A copy of the data on a disk of its own and the limits in force; the data as it is where that is not allowed."""
    if options.no_limits:
        return Place(packed, None, None, "left out (--no-limits)")
    limits = {
        "read_bytes_per_second": int(options.rate * 1e6),
        "read_operations_per_second": options.operations,
        "memory_bytes": options.memory_mib * 2**20,
    }
    room = int(DISK_ROOM * sum(path.stat().st_size for path in packed.rglob("*") if path.is_file())) + 2**26
    try:
        disk = stack.enter_context(loop_disk(folder / "disk.img", room))
        shutil.copytree(packed, disk.folder / "pack")
        enter = stack.enter_context(limited(Limits(disk.device, **limits)))
    except OSError as error:
        return Place(packed, None, None, str(error))
    return Place(disk.folder / "pack", enter, limits, None)


def run(where: Place, baseline: str, options: StorageRun) -> dict:
    """One cold run of a baseline: what benchmarks.storage_run prints."""
    drop_from_cache(where.folder)
    command = [sys.executable, "-m", "benchmarks.storage_run", baseline, str(where.folder)]
    command += [str(number) for number in (SIDE, options.batch, options.window)]
    done = subprocess.run(command, preexec_fn=where.enter, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{baseline} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def measure(packed: Path, options: StorageRun, folder: Path) -> list[dict]:
    """A row per baseline, then one per target."""
    with ExitStack() as stack:
        where = place(stack, packed, options, folder)
        for name in (READ, WINDOWED) if where.limits else ():
            run(where, name, options)  # thrown away: it loads the libraries from their own disk
        runs: dict[str, list[dict]] = {name: [] for name in BASELINES}
        for _ in range(options.rounds):
            for name in BASELINES:
                runs[name].append(run(where, name, options))
    dataset = PackedDataset.open(packed)
    stored = dataset.stored(SIDE)
    length = stored.length[dataset.packed]
    common = {
        "size": SIDE,
        "limits": where.limits,
        "not_limited": where.not_limited,
        "window": options.window,
        "shards": len(stored.paths),
        "dataset_mib": float(length.sum()) / 2**20,
    }
    words = where.limits or f"disk and memory as they are: {where.not_limited}"
    print(f"{common['dataset_mib']:,.0f} MiB in {common['shards']} shards; {words}", flush=True)
    rows = [_row(name, made, float(length.mean())) for name, made in runs.items()]
    for row in rows:
        own = f", own memory {row['own_mib'][0]:.0f} to {row['own_mib'][1]:.0f} MiB" if "own_mib" in row else ""
        print(
            f"  {row['baseline']:26} {row['images_per_second']['median']:9,.0f} images/s "
            f"{row['megabytes_per_second']:8.1f} MB/s   {row['read_of_stored']:.2f} times the bytes read{own}",
            flush=True,
        )
    rates = {row["baseline"]: row["images_per_second"]["median"] for row in rows}
    # without the limits the disk may be faster than the decoder: there is no target then
    bounds = {WINDOWED: FASTEST if where.limits else None, BARE: None, GLOBAL: None}
    checked = [Target(ours, (READ,), bound).check(rates) for ours, bound in bounds.items()]
    for ratio in checked:
        results.print_target(ratio)
    checked += [_flat(row) for row in rows if "own_mib" in row]
    return [{**common, **row} for row in (*rows, *checked)]


def _row(name: str, made: list[dict], per_image: float) -> dict:
    rates = [each["images"] / each["seconds"] for each in made]
    row = {
        "baseline": name,
        "images_per_second": vars(Spread.of(rates)),
        "megabytes_per_second": median(rates) * per_image / 1e6,
        "read_of_stored": median(each["read_bytes"] / each["images"] for each in made) / per_image,
        "runs": [round(rate, 1) for rate in rates],
    }
    if "anonymous_bytes" in made[0]:
        tenths = [each["anonymous_bytes"][len(each["anonymous_bytes"]) // 10] for each in made]
        highest = [max(each["anonymous_bytes"]) for each in made]
        row["own_mib"] = [median(tenths) / 2**20, median(highest) / 2**20]
    return row


def _flat(row: dict) -> dict:
    after, highest = row["own_mib"]
    met = highest <= FLAT * after
    print(f"  {row['baseline']}: own memory grows {highest / after:.3f} times   {'PASS' if met else 'MISS'}")
    what = f"{row['baseline']}: own memory at its highest / after a tenth of the epoch"
    return {"target": what, "value": highest / after, "at_most": FLAT, "met": met}


def main() -> None:
    options = parse(StorageRun, "benchmarks.storage", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.storage")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        rows = measure(prepare(options, Path(name)), options, Path(name))
    results.save([{"data": "synthetic", **row} for row in rows], environment, options.save, "storage")


if __name__ == "__main__":
    main()
