"""Up to how many images do planning, opening, ordering and starting an epoch hold, and what breaks first?

    python -m benchmarks.scale [--save]

Catalogs of --rows images, made and not packed: tables as long as MIMIC-CXR-JPG's would be, planned and published by
packing's own functions, beside shards that are files of nothing but their length (sparse; raw renditions of zeros are
images). Each part runs in a fresh process (`scale_run`), one after the other, --rounds times in succession after a run
that is thrown away and leaves in memory what was read; printed are medians:

    make                   plan of all rows, and publishing: catalog, labels, dataset.json (packing's start and end)
    open                   dataset.json, which rows are packed, labels, the places of a size
    select                 GroupKFold over subjects and over studies
    order                  the orders, each sampler, oversampling, for all rows
    epoch, ORDER           an epoch's start over a fold's training rows: a new loader (which maps the shards) and its
                           first batch, without the building of DALI's pipelines and the reading of a window, which
                           are steps of their own; the second epoch; a start half-way. The process holds what training
                           holds before its model

Memory is the whole process's, libraries included. own is without pages of mapped shards, which are the kernel's cache.
What breaks first: for every limit, at how many rows it is reached if what grew from the fewest rows to the most goes on
growing so. Shards that may not all be opened are tried, too.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

import psutil

from benchmarks import results
from cxrdali.data.order import ORDERS

STARTS = (*ORDERS, "class-balanced")
AT_MOST_SECONDS, AT_MOST_MIB = 3.0, 2048
USUAL_FILES = 1024  # the soft limit of most systems
LOADERS = 2  # training's and validation's: each maps every shard of the size
GROWING = 3  # steps that are named


class Failed(Exception):
    """A part ended with an error: its last line."""


def run(part: str, folder: Path, *arguments: object) -> dict:
    """What a part printed, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale_run", part, str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def part_row(part: str, made: dict, runs: Sequence[dict]) -> dict:
    """The medians and spreads of a part's runs."""
    seconds = {step: [run["steps"][step] for run in runs] for step in runs[0]["steps"]}
    row = {
        "part": part,
        "rows": made["rows"],
        "shards": made["shards"],
        "seconds": {step: asdict(results.Spread.of(values)) for step, values in seconds.items()},
        "runs": seconds,
        "peak_mib": median(run["peak_mib"] for run in runs),
        "found": runs[0]["found"],
    }
    if "own_mib" in runs[0]["found"]:
        row["own_mib"] = median(run["found"]["own_mib"] for run in runs)
    return row


def measure(folder: Path, rows: int, options: argparse.Namespace) -> list[dict]:
    """The rows of all parts at one number of images."""
    making = ("--rows", rows, "--findings", options.findings, "--shard-images", options.shard_images)
    parts = {
        "open": ("open",),
        "select": ("select",),
        "order": ("order", "--window", options.window),
        **{f"epoch, {order}": ("epoch", "--order", order, "--window", options.window) for order in options.starts},
    }
    made = run("make", folder, *making)["found"]
    runs: dict[str, list[dict]] = {"make": []}
    for _ in range(options.rounds):
        again = folder.with_name("again")
        runs["make"].append(run("make", again, *making))
        shutil.rmtree(again)
    for name, (part, *arguments) in parts.items():
        if options.rounds > 1:  # for the page cache: the part before may have driven this one's files out of it
            run(part, folder, *arguments)
        runs[name] = [run(part, folder, *arguments) for _ in range(options.rounds)]
    found = [part_row(name, made, each) for name, each in runs.items()]
    for row in found:
        _print_part(row)
    return found


def _print_part(row: dict) -> None:
    own = f", own {row['own_mib']:,.0f}" if "own_mib" in row else ""
    print(f"  {row['part']}: {row['rows']:,} rows, {row['shards']:,} shards, {row['peak_mib']:,.0f} MiB at most{own}")
    for step, spread in row["seconds"].items():
        print(f"    {step:36} {spread['median']:8.2f} s   {spread['low']:.2f} to {spread['high']:.2f}", flush=True)


# ---------------------------------------------------------------- promises


def promises(rows: Sequence[dict]) -> list[dict]:
    """Start and memory of the epochs at the most rows, which the project promises for 4 million."""
    most = max(row["rows"] for row in rows)
    found = []
    for row in rows:
        if row["rows"] != most or not row["part"].startswith("epoch"):
            continue
        seconds = {step: spread["median"] for step, spread in row["seconds"].items()}
        starts = {"first epoch": seconds["loader"] + seconds["first epoch"], "second epoch": seconds["second epoch"]}
        starts["resume half-way"] = seconds["loader"] + seconds["resume half-way"]
        found += [_promise(row, f"{name}, seconds", value, AT_MOST_SECONDS) for name, value in starts.items()]
        found.append(_promise(row, "own memory, MiB", row["own_mib"], AT_MOST_MIB))
    return found


def _promise(row: dict, what: str, value: float, at_most: float) -> dict:
    met = value <= at_most
    name = f"{row['part']}: {what}"
    print(f"  {name:48} {value:10,.2f}   at most {at_most:,.0f}   {'PASS' if met else 'MISS'}", flush=True)
    return {"promise": name, "rows": row["rows"], "value": value, "at_most": at_most, "met": met}


# ---------------------------------------------------------------- what breaks first


def limits(rows: Sequence[dict], shard_images: int) -> list[dict]:
    """At how many rows each limit of this machine is reached, those that are reached first in front."""
    few, most = ({row["part"]: row for row in rows if row["rows"] == count} for count in _ends(rows))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    maps = int(Path("/proc/sys/vm/max_map_count").read_text())
    memory = psutil.virtual_memory().total / 2**20
    in_training = {"open files, usual": USUAL_FILES, "open files, this machine's hard limit": hard, "mappings": maps}
    found = [
        {"limit": name, "bound": bound, "at_rows": round(bound / LOADERS * shard_images)}
        for name, bound in in_training.items()
        if bound != resource.RLIM_INFINITY
    ]
    for name, part, key, bound in (
        ("memory of this machine, packing", "make", "peak_mib", memory),
        ("memory of this machine, training", "epoch, global", "own_mib", memory),
        ("2 GB, training", "epoch, global", "own_mib", AT_MOST_MIB),
    ):
        found.append(_extrapolated(name, few[part], most[part], few[part][key], most[part][key], bound))
    start = [each["epoch, global"]["seconds"]["first epoch"]["median"] for each in (few, most)]
    found.append(_extrapolated("3 s to an epoch's start", few["open"], most["open"], *start, AT_MOST_SECONDS))
    return sorted(found, key=lambda row: row["at_rows"] or float("inf"))


def _ends(rows: Sequence[dict]) -> tuple[int, int]:
    counts = [row["rows"] for row in rows]
    return min(counts), max(counts)


def _extrapolated(name: str, few: dict, most: dict, less: float, more: float, bound: float) -> dict:
    """On the straight line through two measurements; at_rows is null if nothing grew."""
    slope = (more - less) / (most["rows"] - few["rows"])
    at = round(most["rows"] + (bound - more) / slope) if slope > 0 else None
    return {"limit": name, "bound": bound, "per_million_rows": slope * 1e6, "at_rows": at}


def growth(rows: Sequence[dict]) -> list[dict]:
    """Every step's share in how the work grows: seconds per million rows, the dearest in front, and how much more than
    the rows its seconds grew (1: as the rows)."""
    fewest, most = _ends(rows)
    few = {row["part"]: row["seconds"] for row in rows if row["rows"] == fewest}
    found = []
    for row in rows:
        if row["rows"] != most:
            continue
        for step, spread in row["seconds"].items():
            ratio = spread["median"] / few[row["part"]][step]["median"] / (most / fewest)
            per_million = spread["median"] / most * 1e6
            found.append({"grows": f"{row['part']}: {step}", "seconds_per_million": per_million, "against_rows": ratio})
    return sorted(found, key=lambda row: -row["seconds_per_million"])


def too_few_files(folder: Path, made: dict) -> list[dict]:
    """A start where fewer files may be open than the shards need: a soft limit is raised, a hard one is not."""
    files, hard = min(USUAL_FILES, 40 + made["shards"]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found = []
    for soft, most in ((files, hard), (files, files)):
        try:
            run("epoch", folder, "--files", soft, most)
            outcome = "runs"
        except Failed as error:
            outcome = str(error)
        row = {"tried": "open files", "rows": made["rows"], "shards": made["shards"], "soft": soft, "hard": most}
        found.append(row | {"outcome": outcome})
        print(f"  {soft:,} open files, hard limit {most:,}: {outcome}", flush=True)
    return found


def _starts(text: str) -> list[str]:
    names = text.split(",")
    if STARTS[0] not in names or not set(names) <= set(STARTS):
        raise argparse.ArgumentTypeError(f"{text!r}: {STARTS[0]}, and any of {', '.join(STARTS[1:])}")
    return names


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="400000,4000000", help="images, fewest first [%(default)s]")
    parser.add_argument("--findings", type=int, default=26, help="findings of the labels [%(default)s]")
    parser.add_argument("--shard-images", type=int, default=4096, help="most images in a shard [%(default)s]")
    parser.add_argument("--window", type=int, default=8, help="shards open at a time, windowed [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of a part; 1: a cold trial [%(default)s]")
    starts = ",".join(STARTS)
    parser.add_argument("--starts", type=_starts, default=starts, help="orders, or samplers, that start [%(default)s]")
    results.add_save_option(parser, "scale")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    environment = results.environment("benchmarks.scale")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        rows = []
        for count in map(int, options.rows.split(",")):
            folder = Path(name) / str(count)
            rows += measure(folder, count, options)
        most = max(rows, key=lambda row: row["rows"])
        print("promised")
        kept = promises(rows)
        print("what breaks first")
        broken = too_few_files(folder, most)
    bounds = limits(rows, options.shard_images)
    for row in bounds:
        at = "never" if row["at_rows"] is None else f"{row['at_rows']:,} rows"
        print(f"  {row['limit']:48} {row['bound']:12,.0f}   {at}", flush=True)
    grown = growth(rows)
    print("seconds per million rows, and how much more than the rows they grew")
    for row in grown[:GROWING]:
        print(f"  {row['grows']:48} {row['seconds_per_million']:10.2f}   {row['against_rows']:.2f}", flush=True)
    if options.save:
        common = {"data": "made", "findings": options.findings, "shard_images": options.shard_images}
        saved = [common | row for row in (*rows, *kept, *broken, *bounds, *grown)]
        print(f"{len(saved)} rows -> {results.save(saved, environment, options.save, 'scale')}")


if __name__ == "__main__":
    main()
