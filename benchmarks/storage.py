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

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import results
from benchmarks.effects.drawn import IMAGES_PER_STUDY
from benchmarks.limits import Limits, drop_from_cache, limited, loop_disk
from benchmarks.results import Spread, Target
from benchmarks.storage_run import BARE, CONTENDERS, GLOBAL, READ, WINDOWED
from shards.dataset.packed import PackedDataset
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.rendition import Size
from shards.releases.open import open_release
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

SIDE, DRAWN = 320, 224  # pixels: of the renditions, and of the pictures that they are enlarged from
BATCH = 32
FASTEST = 0.9  # promised: windowed, of the sequential rate
FLAT = 1.05  # promised: the process's own memory at its highest, of what it is after a tenth of the epoch
DISK_ROOM = 1.3  # times the bytes of the shards


@dataclass(frozen=True)
class Place:
    """Where the data lies and what limits a run. enter: what a new process calls first, None without a limit."""

    folder: Path
    enter: Callable[[], None] | None
    limits: dict | None
    not_limited: str | None


def prepare(options: argparse.Namespace, folder: Path) -> Path:
    """The packed dataset. Its pictures are enlarged: their bytes count, not what is seen."""
    release, packed = folder / "release", folder / "pack"
    studies = int(options.images / IMAGES_PER_STUDY) + 1
    write_release(release, SyntheticOptions(studies, DRAWN, 0), jobs=_cores())
    wanted = PackOptions(sizes=(Size(SIDE, raw=True),), shard_images=options.shard_images, limit=options.images)
    pack(open_release(release), packed, wanted, jobs=_cores())
    shutil.rmtree(release)
    return packed


def place(stack: ExitStack, packed: Path, options: argparse.Namespace, folder: Path) -> Place:
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


def run(where: Place, contender: str, options: argparse.Namespace) -> dict:
    """One cold run of a contender: what benchmarks.storage_run prints."""
    drop_from_cache(where.folder)
    command = [sys.executable, "-m", "benchmarks.storage_run", str(where.folder), "--contender", contender]
    command += ["--size", str(SIDE), "--batch", str(options.batch), "--window", str(options.window)]
    done = subprocess.run(command, preexec_fn=where.enter, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{contender} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def measure(packed: Path, options: argparse.Namespace, folder: Path) -> list[dict]:
    """A row per contender, then one per promise."""
    with ExitStack() as stack:
        where = place(stack, packed, options, folder)
        for name in (READ, WINDOWED):
            run(where, name, options)  # thrown away: it loads the libraries from their own disk
        runs: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
        for _ in range(options.rounds):
            for name in CONTENDERS:
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
    print(f"{common['dataset_mib']:,.0f} MiB in {common['shards']} shards; {_words(where)}", flush=True)
    rows = [_row(name, made, float(length.mean())) for name, made in runs.items()]
    for row in rows:
        own = f", own memory {row['own_mib'][0]:.0f} to {row['own_mib'][1]:.0f} MiB" if "own_mib" in row else ""
        print(
            f"  {row['contender']:26} {row['images_per_second']['median']:9,.0f} images/s "
            f"{row['megabytes_per_second']:8.1f} MB/s   {row['read_of_stored']:.2f} times the bytes read{own}",
            flush=True,
        )
    rates = {row["contender"]: row["images_per_second"]["median"] for row in rows}
    # without the limits the disk may be faster than the decoder: nothing is promised then
    bound = FASTEST if where.limits else None
    checked = [Target(ours, (READ,), promised).check(rates) for ours, promised in _promises(bound)]
    for ratio in checked:
        results.print_target(ratio)
    checked += [_flat(row) for row in rows if "own_mib" in row]
    return [{**common, **row} for row in (*rows, *checked)]


def _promises(bound: float | None) -> list[tuple[str, float | None]]:
    return [(WINDOWED, bound), (BARE, None), (GLOBAL, None)]


def _row(name: str, made: list[dict], per_image: float) -> dict:
    rates = [each["images"] / each["seconds"] for each in made]
    row = {
        "contender": name,
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
    print(f"  {row['contender']}: own memory grows {highest / after:.3f} times   {'PASS' if met else 'MISS'}")
    what = f"{row['contender']}: own memory at its highest / after a tenth of the epoch"
    return {"promise": what, "value": highest / after, "at_most": FLAT, "met": met}


def _words(where: Place) -> str:
    if where.limits is None:
        return f"disk and memory as they are: {where.not_limited}"
    names = {
        "read_bytes_per_second": lambda value: f"{value / 1e6:g} MB/s",
        "read_operations_per_second": lambda value: f"{value} reads a second",
        "memory_bytes": lambda value: f"{value / 2**20:g} MiB for process and page cache",
    }
    return ", ".join(names[name](value) for name, value in where.limits.items())


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=100, help="of the disk, MB/s [%(default)s]")
    parser.add_argument("--operations", type=int, default=500, help="of the disk, reads a second [%(default)s]")
    parser.add_argument("--memory-mib", type=int, default=640, help="for process and page cache [%(default)s]")
    parser.add_argument("--images", type=int, default=8000, help="images to pack, at most [%(default)s]")
    parser.add_argument("--shard-images", type=int, default=125, help="most images in a shard [%(default)s]")
    parser.add_argument("--window", type=int, default=4, help="shards of a window [%(default)s]")
    parser.add_argument("--batch", type=int, default=BATCH, help="images in a batch [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender [%(default)s]")
    parser.add_argument("--no-limits", action="store_true", help="take disk and memory as they are")
    results.add_save_option(parser, "storage")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    environment = results.environment("benchmarks.storage")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder = Path(name)
        rows = measure(prepare(options, folder), options, folder)
    if options.save:
        path = results.save([{"data": "synthetic", **row} for row in rows], environment, options.save, "storage")
        print(f"{len(rows)} rows -> {path}")


if __name__ == "__main__":
    main()
