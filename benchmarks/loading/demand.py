"""Which decode mode, and how many threads, keep up with the training step?

    python -m benchmarks.loading.demand [--device cuda] [--save]

The rule for `--decode auto` and `--threads` comes from here. Per stage, decode mode and number of DALI's threads:

    supply   images/s of the loader alone, augmented, for a consumer that does nothing
    demand   images/s of a whole training step of EfficientNetV2-S on batches that lie on the GPU already: of the newest
             committed run of `benchmarks.training.step`, and derived of an RTX 3090: 559 images/s at 288 pixels,
             published by timm, taken by pixels to other sides, which is more than small ones reach
    rule     the fewest threads whose supply is twice the demand, and how many cores are busy at it

Decode modes: cpu, mixed and hybrid (on a GPU) of JPEG renditions; raw are renditions that need no decoding. What a
loader takes from the step itself, cores or the GPU, `benchmarks.training.step --decode MODE` shows.

Held fixed: machine, images, order, batch, augmentation, a warm page cache. The batches that are ready when a run begins
are taken before its clock starts. All loaders of a stage take turns, after a short run that sizes theirs.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import joblib
import torch

from benchmarks import datasets, results
from benchmarks.options import STAGES, Options, Stage, listed, option, parse
from benchmarks.pages import published
from benchmarks.results import Run
from benchmarks.training.fed import CACHED, LEAD, batches_of, synchronize
from cxrdali.data.loader import Batch
from cxrdali.data.options import LoaderOptions
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

FEEDS = {"cpu": ("cpu", False), "mixed": ("mixed", False), "hybrid": ("hybrid", False), "raw": ("cpu", True)}
HEADROOM = 2.0  # times the demand: the rule leaves half of the loader to bursts, validation and other processes
DERIVED = f"{published.GPU}, derived"


@dataclass(frozen=True)
class DemandRun(Options):
    """What is measured."""

    stages: tuple[Stage, ...] = option("224:256,320:128,384:80,512:48", "SIZE:BATCH,... in pixels and images", STAGES)
    threads: tuple[int, ...] = option("", "of DALI [1,2,4,8,16, up to twice the cores]", listed(int))
    feeds: tuple[str, ...] = option("", f"of {', '.join(FEEDS)} [all; without a GPU: cpu,raw]", listed(str))
    rounds: int = option(5, "timed runs of each")
    seconds: float = option(0.3, "length of a loader's run, about")
    studies: int = option(400, "of the synthetic release")
    device: str = option("cpu", "cpu or cuda[:N]")

    def resolved(self) -> "DemandRun":
        """With what depends on the machine. Raises UserError for a feed that is none."""
        if unknown := set(self.feeds) - set(FEEDS):
            raise UserError(f"--feeds {min(unknown)!r}: choose from {', '.join(FEEDS)}")
        on_gpu = self.device.startswith("cuda")
        threads = tuple(count for count in (1, 2, 4, 8, 16) if count <= 2 * joblib.cpu_count())
        feeds = tuple(FEEDS) if on_gpu else ("cpu", "raw")
        return replace(self, threads=self.threads or threads, feeds=self.feeds or feeds)


@dataclass(frozen=True)
class Fed:
    """Batches from a loader: feed is a key of FEEDS."""

    feed: str
    threads: int
    batches: Iterator[Batch]
    batch: int

    @property
    def words(self) -> str:
        return f"{self.feed}, {self.threads} thread{'' if self.threads == 1 else 's'}"


def threads_needed(demand: float, supply: Mapping[int, float], headroom: float = HEADROOM) -> int | None:
    """The fewest threads whose supply is `headroom` times the demand, both in images/s; None if none measured is."""
    enough = [threads for threads, rate in supply.items() if rate >= headroom * demand]
    return min(enough, default=None)


# ---------------------------------------------------------------- data and runs


def prepare(options: DemandRun, folder: Path) -> dict[bool, PackedDataset]:
    """The same images packed as JPEG (False) and raw (True), in the page cache."""
    sizes = [stage.size for stage in options.stages]
    release = datasets.synthetic(folder / "release", options.studies, max(sizes))
    return {raw: datasets.packed(release, folder / str(raw), sizes, raw) for raw in (False, True)}


def feeds(data: Mapping[bool, PackedDataset], stage: Stage, options: DemandRun) -> list[Fed]:
    """A running loader for every decode mode and number of threads."""
    found = []
    for feed in options.feeds:
        decode, raw = FEEDS[feed]
        for threads in options.threads:
            wanted = LoaderOptions(stage.size, stage.batch, threads, decode, options.device)
            found.append(Fed(feed, threads, batches_of(data[raw], wanted), stage.batch))
    return found


def supplied(fed: Fed, count: int, device: str) -> Run:
    """`count` batches for a consumer that does nothing."""
    for _ in range(LEAD):
        next(fed.batches)

    def run() -> int:
        for _ in range(count):
            next(fed.batches)
        synchronize(device)
        return count * fed.batch

    return results.timed(run)


# ---------------------------------------------------------------- measuring


def measure_stage(data: Mapping[bool, PackedDataset], stage: Stage, options: DemandRun) -> list[dict]:
    """The rows of a stage: supply, demand, beside, and the rule that follows."""
    found = feeds(data, stage, options)
    supply = supply_rows(found, options)
    print(f"{stage.size} pixels, batches of {stage.batch}")
    results.print_rates(supply)
    rows = [*supply, {"demand": DERIVED, "images_per_second": published.images_per_second(stage.size)}]
    rows.append(measured_demand(stage))
    rows += [rule for row in rows if row.get("demand") and row["images_per_second"] for rule in rules(row, supply)]
    return [{**asdict(stage), **row} for row in rows]


def measured_demand(stage: Stage) -> dict:
    """Of the newest committed run of `benchmarks.training.step` on a GPU, if it has that size."""
    for row in results.newest("step", gpu=True):
        if row.get("baseline") == CACHED and row["size"] == stage.size and row["images_per_second"]:
            return {"demand": row["environment"]["gpu"], "images_per_second": row["images_per_second"]}
    return {"demand": "a GPU", "images_per_second": None, "not_measured": "no committed run of step on a GPU"}


def rules(demand: Mapping, supply: Sequence[dict]) -> list[dict]:
    """What follows from a demand's row for every decode mode: the threads, and how many cores are busy at that rate."""
    rate, name, found = demand["images_per_second"], demand["demand"], []
    rate = rate if isinstance(rate, float) else rate["median"]
    for feed in dict.fromkeys(row["feed"] for row in supply):
        own = [row for row in supply if row["feed"] == feed]
        needed = threads_needed(rate, {row["threads"]: row["images_per_second"]["median"] for row in own})
        cores = rate * own[0]["cpu_seconds_per_1000"] / 1000
        row = {"rule": name, "feed": feed, "demanded": rate, "headroom": HEADROOM, "threads_needed": needed}
        found.append(row | {"cores_busy": cores})
        print(
            f"  {name}, {rate:,.0f} images/s, {feed}: {'more' if needed is None else needed} for "
            f"{HEADROOM:g} times that, {cores:.2f} cores busy at it", flush=True,
        )  # fmt: skip
    return found


def supply_rows(found: Sequence[Fed], options: DemandRun) -> list[dict]:
    """A row for every loader: what it gives a consumer that does nothing."""
    counts = {}
    for fed in found:
        supplied(fed, 1, options.device)  # the pipeline's first batches
        rate = supplied(fed, LEAD, options.device).rate
        counts[fed] = max(LEAD, round(rate * options.seconds / fed.batch))
    runs = {fed: [] for fed in found}
    for _ in range(options.rounds):
        for fed in found:
            runs[fed].append(supplied(fed, counts[fed], options.device))
    return [{"feed": fed.feed, "threads": fed.threads, **results.rate_row(fed.words, runs[fed])} for fed in found]


def main() -> None:
    options = parse(DemandRun, "benchmarks.loading.demand", __doc__.splitlines()[0])
    torch.set_num_threads(1)  # torch's idle threads spin, and would take the cores from the decoder
    try:
        options = options.resolved()
        environment = results.environment("benchmarks.loading.demand", options.device)
        with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
            data = prepare(options, Path(folder))
            print(f"{environment['cpu']}, {environment['cores']} cores, {environment['gpu'] or 'no GPU'}, warm cache")
            rows = [row for stage in options.stages for row in measure_stage(data, stage, options)]
    except UserError as error:
        sys.exit(str(error))
    results.save([{"data": "synthetic", **row} for row in rows], environment, options.save, "demand")


if __name__ == "__main__":
    main()
