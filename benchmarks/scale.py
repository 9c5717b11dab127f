"""Up to how many images do planning, opening, ordering and starting an epoch hold, and what breaks first?

    python -m benchmarks.scale [--save]

Catalogs of --rows images, made and not packed: tables as long as MIMIC-CXR-JPG's would be, planned and published by
packing's own functions, beside shards that are files of nothing but their length (sparse; raw renditions of zeros are
images). Each part runs in a fresh process (`scale_run`), one after the other, --rounds times in succession after a run
that is thrown away and leaves in memory what was read; printed are medians:

    make                   plan of all rows, and publishing: catalog, labels, dataset.json (packing's start and end)
    epoch, ORDER           opening, labels, folds of subjects; then, with each order and a sampler, an epoch's
                           start over a fold's training rows: a new loader (which maps the shards) and its
                           first batch, without the building of DALI's pipelines and the reading of a window, which
                           are steps of their own; the second epoch; a start half-way. The process holds what training
                           holds before its model

Memory is the whole process's, libraries included. own is without pages of mapped shards, which are the kernel's cache.
What breaks first: for every limit, at how many rows it is reached if what grew from the fewest rows to the most goes on
growing so.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

from benchmarks import results
from benchmarks.options import Options, listed, option, parse
from cxrdali.data.order import ORDERS
from shards.errors import UserError

STARTS = (*ORDERS, "class-balanced")
AT_MOST_SECONDS, AT_MOST_MIB = 3.0, 2048
LOADERS = 2  # training's and validation's: each maps the shards that it reads, at last every one of the size


@dataclass(frozen=True)
class ScaleRun(Options):
    """What is measured."""

    rows: tuple[int, ...] = option("400000,4000000", "images, fewest first", listed(int))
    findings: int = option(26, "findings of the labels")
    shard_images: int = option(4096, "most images in a shard")
    window: int = option(8, "shards open at a time, windowed")
    rounds: int = option(3, "timed runs of a part; 1: a cold trial")
    starts: tuple[str, ...] = option(",".join(STARTS), "orders, or samplers, that start", listed(str))


def run(part: str, folder: Path, **arguments: object) -> dict:
    """What a part printed, in a process of its own. Raises UserError with its last line if it failed."""
    command = [sys.executable, "-m", "benchmarks.scale_run", part, str(folder), json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{part}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, rows: int, options: ScaleRun) -> list[dict]:
    """The rows of all parts at one number of images."""
    making = {"rows": rows, "findings": options.findings, "shard_images": options.shard_images}
    parts = {f"epoch, {order}": {"order": order, "window": options.window} for order in options.starts}
    made = run("make", folder, **making)["found"]
    runs: dict[str, list[dict]] = {"make": []}
    for _ in range(options.rounds):
        again = folder.with_name("again")
        runs["make"].append(run("make", again, **making))
        shutil.rmtree(again)
    for name, arguments in parts.items():
        if options.rounds > 1:  # for the page cache: the part before may have driven this one's files out of it
            run("epoch", folder, **arguments)
        runs[name] = [run("epoch", folder, **arguments) for _ in range(options.rounds)]
    return [part_row(name, made, each) for name, each in runs.items()]


def part_row(part: str, made: dict, runs: Sequence[dict]) -> dict:
    """The medians and spreads of a part's runs."""
    seconds = {step: [run["steps"][step] for run in runs] for step in runs[0]["steps"]}
    spreads = {step: asdict(results.Spread.of(values)) for step, values in seconds.items()}
    row = {"part": part, "rows": made["rows"], "shards": made["shards"], "seconds": spreads, "runs": seconds}
    row |= {"peak_mib": median(run["peak_mib"] for run in runs), "found": runs[0]["found"]}
    if "own_mib" in runs[0]["found"]:
        row["own_mib"] = median(run["found"]["own_mib"] for run in runs)
    own = f", own {row['own_mib']:,.0f}" if "own_mib" in row else ""
    print(f"  {part}: {row['rows']:,} rows, {row['shards']:,} shards, {row['peak_mib']:,.0f} MiB at most{own}")
    for step, spread in spreads.items():
        print(f"    {step:36} {spread['median']:8.2f} s   {spread['low']:.2f} to {spread['high']:.2f}", flush=True)
    return row


def targets(rows: Sequence[dict]) -> list[dict]:
    """Start and memory of the epochs at the most rows; the targets are for 4 million."""
    most, found = max(row["rows"] for row in rows), []
    for row in rows:
        if row["rows"] != most or not row["part"].startswith("epoch"):
            continue
        seconds = {step: spread["median"] for step, spread in row["seconds"].items()}
        starts = {"first epoch": seconds["loader"] + seconds["first epoch"], "second epoch": seconds["second epoch"]}
        starts["resume half-way"] = seconds["loader"] + seconds["resume half-way"]
        found += [target(row, f"{name}, seconds", value, AT_MOST_SECONDS) for name, value in starts.items()]
        found.append(target(row, "own memory, MiB", row["own_mib"], AT_MOST_MIB))
    return found


def target(row: dict, what: str, value: float, at_most: float) -> dict:
    """A row that says whether a part's value is at most so much."""
    met, name = value <= at_most, f"{row['part']}: {what}"
    print(f"  {name:48} {value:10,.2f}   at most {at_most:,.0f}   {'PASS' if met else 'MISS'}", flush=True)
    return {"target": name, "rows": row["rows"], "value": value, "at_most": at_most, "met": met}


def limits(rows: Sequence[dict], shard_images: int) -> list[dict]:
    """At how many rows each limit of this machine is reached, those that are reached first in front."""
    counts = [row["rows"] for row in rows]
    few, most = ({row["part"]: row for row in rows if row["rows"] == count} for count in (min(counts), max(counts)))
    maps = int(Path("/proc/sys/vm/max_map_count").read_text())
    memory = psutil.virtual_memory().total / 2**20
    found = [{"limit": "mappings", "bound": maps, "at_rows": round(maps / LOADERS * shard_images)}]
    for name, part, key, bound in (
        ("memory of this machine, packing", "make", "peak_mib", memory),
        ("memory of this machine, training", "epoch, global", "own_mib", memory),
        ("2 GB, training", "epoch, global", "own_mib", AT_MOST_MIB),
    ):
        found.append(_extrapolated(name, bound, *((each[part]["rows"], each[part][key]) for each in (few, most))))
    starts = [each["epoch, global"] for each in (few, most)]
    times = ((row["rows"], row["seconds"]["first epoch"]["median"]) for row in starts)
    found.append(_extrapolated("3 s to an epoch's start", AT_MOST_SECONDS, *times))
    return sorted(found, key=lambda row: row["at_rows"] or float("inf"))


def _extrapolated(name: str, bound: float, few: tuple[int, float], most: tuple[int, float]) -> dict:
    """On the straight line through two measurements (rows, value); at_rows is null if nothing grew."""
    slope = (most[1] - few[1]) / (most[0] - few[0])
    at = round(most[0] + (bound - most[1]) / slope) if slope > 0 else None
    return {"limit": name, "bound": bound, "per_million_rows": slope * 1e6, "at_rows": at}


def main() -> None:
    options = parse(ScaleRun, "benchmarks.scale", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.scale")
    if STARTS[0] not in options.starts or not set(options.starts) <= set(STARTS):
        sys.exit(f"--starts {','.join(options.starts)}: {STARTS[0]}, and any of {', '.join(STARTS[1:])}")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        rows = [row for count in options.rows for row in measure(Path(name) / str(count), count, options)]
    print("targets")
    kept = targets(rows)
    print("what breaks first")
    bounds = limits(rows, options.shard_images)
    for row in bounds:
        at = "never" if row["at_rows"] is None else f"{row['at_rows']:,} rows"
        print(f"  {row['limit']:48} {row['bound']:12,.0f}   {at}", flush=True)
    common = {"data": "made", "findings": options.findings, "shard_images": options.shard_images}
    results.save([common | row for row in (*rows, *kept, *bounds)], environment, options.save, "scale")


if __name__ == "__main__":
    main()
