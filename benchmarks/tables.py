"""How long do catalog, plan and dry run of all of MIMIC-CXR-JPG take, and how much memory?

    python -m benchmarks.tables [--save]

The synthetic release's tables at --images rows (377,110, MIMIC-CXR-JPG's): metadata, official split, CheXpert and
NegBio labels, CXR-LT 2023 and 2024. Pictures there are only where the dry run looks. All in one fresh process:

    catalog   open_release: every table read, checked and joined
    plan      studies shuffled, rows, keys and shards; a part of the dry run, timed apart
    dry run   estimate: checks of the plan and of paths, and some images packed in memory, which is reported apart
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks import results
from benchmarks.effects.drawn import studies_for
from cli.main import ENVIRONMENT
from shards.packing.estimate import estimate
from shards.packing.options import PackOptions
from shards.packing.plan import plan
from shards.releases.open import open_release
from shards.synthetic.plan import SyntheticOptions, plan_release
from shards.synthetic.release import draw_study
from shards.synthetic.tables import write_tables

AT_MOST_SECONDS, AT_MOST_MIB = 15.0, 1.5 * 1024
SAMPLED = 32  # images that a dry run packs in memory


def prepare(folder: Path, images: int) -> None:
    """The tables in `folder`, and a picture of native size wherever the dry run will look."""
    options = SyntheticOptions(studies_for(images), "native")
    studies = plan_release(options)
    kept = np.cumsum([len(study.images) for study in studies]).searchsorted(images) + 1
    studies = studies[:kept]
    folder.mkdir(parents=True)
    write_tables(folder, options, studies)
    (folder / "files").mkdir()
    release = open_release(folder)
    rows = plan(release.images, PackOptions().shard_images, PackOptions().seed).rows()
    encoded = cv2.imencode(".jpg", next(draw_study(options, studies[0])))[1].tobytes()
    for path in rows["path"].iloc[_evenly(len(rows), SAMPLED)]:
        (release.root / path).parent.mkdir(parents=True, exist_ok=True)
        (release.root / path).write_bytes(encoded)


def _evenly(count: int, samples: int) -> list[int]:
    samples = min(samples, count)
    return [int(place * (count - 1) / max(samples - 1, 1)) for place in range(samples)]


def measured(folder: Path) -> dict:
    """Seconds by part, counts and peak memory of this process."""
    seconds, started = {}, time.perf_counter()
    release = open_release(folder)
    seconds["catalog"], started = time.perf_counter() - started, time.perf_counter()
    options = PackOptions()
    shards = plan(release.images, options.shard_images, options.seed).shards
    seconds["plan"], started = time.perf_counter() - started, time.perf_counter()
    found = estimate(release, options, jobs=len(os.sched_getaffinity(0)), samples=SAMPLED)
    seconds["dry run"] = time.perf_counter() - started
    return {
        "images": len(release.images),
        "shards": shards,
        "tables": sorted(path.name for path in (*release.inputs, *(each for t in release.labels for each in t.inputs))),
        "seconds": seconds,
        "total_seconds": seconds["catalog"] + seconds["dry run"],
        "sampled": found.sampled,
        "rejected": sum(found.rejected.values()),
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    """Of this process; getrusage's would be its parent's, if that had more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=377_110, help="rows, about [%(default)s]")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    results.add_save_option(parser, "tables")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return
    environment = results.environment("benchmarks.tables")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder = Path(name) / "release"
        prepare(folder, options.images)
        command = [sys.executable, "-m", "benchmarks.tables", "--measure", str(folder)]
        # with the variables that every command of cxrdali sets
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | ENVIRONMENT)
    row = json.loads(done.stdout.splitlines()[-1])
    met = row["total_seconds"] <= AT_MOST_SECONDS and row["peak_mib"] <= AT_MOST_MIB and not row["rejected"]
    row |= {"promise": "catalog, plan and dry run, seconds", "value": row["total_seconds"]}
    row |= {"at_most": AT_MOST_SECONDS, "at_most_mib": AT_MOST_MIB, "met": met}
    parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in row["seconds"].items())
    print(
        f"{row['images']:,} images, {len(row['tables'])} tables: {parts}; {row['total_seconds']:.1f} s in all, "
        f"{row['peak_mib']:,.0f} MiB at most   under {AT_MOST_SECONDS:g} s and {AT_MOST_MIB:,.0f} MiB   "
        f"{'PASS' if met else 'MISS'}"
    )
    if options.save:
        print(f"1 row -> {results.save([{'data': 'synthetic', **row}], environment, options.save, 'tables')}")


if __name__ == "__main__":
    main()
