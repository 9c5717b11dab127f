"""Do 100 million images open, divide and begin an epoch within a minute and 16 GB, and what breaks first beyond that?

    python -m benchmarks.scale_large [--save]

A packed dataset of --rows images is written (`scale_made`), since packing's own tables of as many take more memory than
most machines have (`scale`); it takes 4 GB of TMPDIR. Two parts, each in a fresh process that ends when it holds more
than --most-gib, the first one after a run that is thrown away and leaves in memory what was read:

    start     what `scale`'s epoch has, with the validation's loader: to the first batch, with DALI's build
    record    what a run writes of its data before its first step: which images, labels and pixels these are
              (config.json), and the list of images that it has seen (seen.parquet)
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks import results
from benchmarks.options import Options, option, parse
from benchmarks.scale_made import SIZE, write_pack
from benchmarks.scale_run import BATCH, POSITIVE, SEED, Steps, anonymous_mib, peak_mib
from cxrdali.data.options import FoldOptions
from cxrdali.data.splits import train_and_validation
from cxrdali.data.targets import check_labelled, counts, targets
from shards.dataset.packed import PackedDataset

AT_MOST_SECONDS, AT_MOST_MIB, FOR_ROWS = 60.0, 16 * 1024, 100_000_000
WATCH = 0.05  # seconds between looks at the memory


@dataclass(frozen=True)
class LargeRun(Options):
    """What is measured."""

    rows: int = option(FOR_ROWS, "images")
    findings: int = option(26, "findings of the labels")
    shard_images: int = option(4096, "images in a shard")
    order: str = option("global", "order of the epoch")
    most_gib: float = option(16.0, "memory of its own at which a part is ended")


def begun(folder: Path, order: str) -> tuple[dict, tuple]:
    """Seconds of each step up to the first batch, and what `recorded` needs."""
    import torch  # noqa: F401  (its memory is training's, too)

    from cxrdali.data.augment import AugmentOptions
    from cxrdali.data.loader import Loader
    from cxrdali.data.options import LoaderOptions

    steps = Steps()
    with steps.step("open"):
        dataset = PackedDataset.open(folder)
    with steps.step("labels"):
        labels = dataset.labels()
    with steps.step("divide"):
        train, validation = train_and_validation(dataset, labels, FoldOptions())
    with steps.step("targets"):
        check_labelled(labels, train, "the training split")
        counts(targets(labels), train)
    options = LoaderOptions(SIZE.pixels, BATCH, order=order)
    with steps.step("loaders"):
        loader = Loader(dataset, train, options, seed=SEED, shuffle=True, augment=AugmentOptions(), drop_last=True)
        beside = Loader(dataset, validation, options)
    with steps.step("first batch"):
        batches = iter(loader)
        rows = next(batches).rows
    assert len(rows) == BATCH and len(beside.rows) == len(validation)
    batches.close()
    return steps.seconds, (dataset, labels, train, validation, order)


def recorded(dataset: PackedDataset, labels, train: np.ndarray, validation: np.ndarray, order: str) -> dict:
    """Seconds of each step of a run's record."""
    from cxrdali.runs import same_data
    from cxrdali.runs.seen import Seen, Trained

    steps = Steps()
    with steps.step("config.json"):
        settings = SimpleNamespace(data=SimpleNamespace(size=SIZE.pixels, order=order))
        same_data.described(settings, dataset, labels, train, validation)
    with steps.step("seen.parquet"):
        own = Trained.of("run", dataset, labels, FoldOptions(), train)
        Seen().after(own, dataset, train).write(dataset.root)
    return steps.seconds


def part(name: str, folder: Path, order: str, most_gib: float) -> None:
    """Prints one JSON line: what a part took, and the most memory that it held."""
    own = [0.0]

    def watch() -> None:
        while True:
            own[0] = max(own[0], anonymous_mib())
            if own[0] > most_gib * 1024:
                print(json.dumps({"part": name, "ended_at_mib": own[0]}), flush=True)
                os._exit(1)
            time.sleep(WATCH)

    threading.Thread(target=watch, daemon=True).start()
    seconds, known = begun(folder, order)
    if name == "record":
        seconds = recorded(*known)
    print(json.dumps({"part": name, "seconds": seconds, "own_mib": own[0], "peak_mib": peak_mib()}), flush=True)


def run(name: str, folder: Path, options: LargeRun) -> dict:
    arguments = [name, str(folder), options.order, str(options.most_gib)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale_large", *arguments], stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"part": name, "failed": done.returncode}
    if "seconds" in found:
        found["total"] = sum(found["seconds"].values())
        held = f"{found['own_mib']:,.0f} MiB of its own, {found['peak_mib']:,.0f} at most"
        print(f"  {name}: {found['total']:.1f} s, {held}")
        for step, seconds in found["seconds"].items():
            print(f"    {step:20} {seconds:8.2f} s", flush=True)
    else:
        print(f"  {name}: ended {found}", flush=True)
    return found


def targets_of(found: dict, rows: int) -> list[dict]:
    """Of the start; they are for FOR_ROWS. A part that was ended has none."""
    values = {"seconds": (found.get("total"), AT_MOST_SECONDS), "own memory, MiB": (found.get("own_mib"), AT_MOST_MIB)}
    kept = []
    for what, (value, at_most) in values.items():
        met = value is not None and value <= at_most
        name = f"{rows / 1e6:g} million images, {found['part']}: {what}"
        print(f"  {name:56} {value or float('nan'):10,.1f}   at most {at_most:,.0f}   {'PASS' if met else 'MISS'}")
        kept.append({"target": name, "rows": rows, "value": value, "at_most": at_most, "met": met})
    return kept


def main() -> None:
    options = parse(LargeRun, "benchmarks.scale_large", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.scale_large")
    folder = Path(tempfile.mkdtemp(prefix="cxrdali-bench-")) / "pack"
    try:
        started = time.perf_counter()
        shards = write_pack(folder, options.rows, options.shard_images, np.resize(POSITIVE, options.findings), SEED)
        print(f"{options.rows:,} images in {shards:,} shards, written in {time.perf_counter() - started:.0f} s")
        run("start", folder, options)
        parts = [run(name, folder, options) for name in ("start", "record")]
    finally:
        shutil.rmtree(folder.parent)
    kept = targets_of(parts[0], options.rows)
    common = {"data": "made", "findings": options.findings, "shard_images": options.shard_images, "rows": options.rows}
    rows = [common | {"shards": shards, "order": options.order} | each for each in parts]
    results.save([*rows, *(common | each for each in kept)], environment, options.save, "scale_large")


if __name__ == "__main__":
    if sys.argv[1:2] in (["start"], ["record"]):
        part(sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
    else:
        main()
