"""Which decode mode, and how many threads, keep up with the training step?

    python -m benchmarks.loading.demand [--save]                    # the loader alone, on the CPU
    python -m benchmarks.loading.demand --device cuda [--save]      # and beside a training step; 8 minutes on an H100

The rule for `--decode auto` and `--threads` comes from here. Per stage, decode mode and number of DALI's threads:

    supply   images/s of the loader alone, augmented, for a consumer that does nothing
    demand   images/s of a whole training step (EfficientNetV2-S, AdamW, AMP) on batches that lie on the GPU already
    beside   the same step fed by the loader: the share of its time that waits for data (to reach: 1 %), and how much
             slower than demand it is, which counts what the loader takes from the step: cores, or the GPU itself

Decode modes: cpu, mixed and hybrid of JPEG renditions; raw are renditions that need no decoding. Without a GPU there is
only the supply of cpu and raw, demand says "not measured", and the one of an RTX 3090 is derived: 559 images/s at 288
pixels, published by timm, taken by pixels to other sides, which is more than small ones reach.

Held fixed: machine, images, order, batch, augmentation, a warm page cache. The batches that are ready when a run begins
are drawn before its clock starts. All contenders of a stage take turns, after a short run that sizes theirs.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import results
from benchmarks.loading.loader import Stage
from benchmarks.pages import published
from benchmarks.results import Run, Spread
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.models.classifier import ModelOptions, create
from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule
from cxrdali.runtime.device import Hardware
from cxrdali.train.step import Step, adamw, grad_scaler
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.rendition import Size
from shards.releases.open import open_release
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

FEEDS = {"cpu": ("cpu", False), "mixed": ("mixed", False), "hybrid": ("hybrid", False), "raw": ("cpu", True)}
STAGES = "224:256,320:128,384:80,512:48"  # the paper's
LEAD = 6  # batches drawn before a run's clock starts: more than any loader has ready
EPOCH = 100_000  # rows: no run reaches an epoch's end
FINDINGS = 26
MOST_WAITING = 0.01  # of the step's time
HEADROOM = 2.0  # times the demand: the rule leaves half of the loader to bursts, validation and other processes
DERIVED = f"{published.GPU}, derived"


@dataclass(frozen=True)
class Fed:
    """Batches from a loader: feed is a key of FEEDS."""

    feed: str
    threads: int
    batches: Iterator
    batch: int

    @property
    def words(self) -> str:
        return f"{self.feed}, {self.threads} thread{'' if self.threads == 1 else 's'}"


def threads_needed(demand: float, supply: Mapping[int, float], headroom: float = HEADROOM) -> int | None:
    """The fewest threads whose supply is `headroom` times the demand, both in images/s; None if none measured is."""
    enough = [threads for threads, rate in supply.items() if rate >= headroom * demand]
    return min(enough, default=None)


# ---------------------------------------------------------------- data and contenders


def prepare(options: argparse.Namespace, folder: Path) -> dict[bool, PackedDataset]:
    """The same images packed as JPEG (False) and raw (True), in the page cache."""
    sizes = [stage.size for stage in options.stages]
    write_release(folder / "release", SyntheticOptions(options.studies, max(sizes)), jobs=_cores())
    found = {}
    for raw in (False, True):
        wanted = PackOptions(tuple(Size(size, raw) for size in sizes))
        pack(open_release(folder / "release"), folder / str(raw), wanted, jobs=_cores())
        found[raw] = PackedDataset.open(folder / str(raw))
    return found


def feeds(data: Mapping[bool, PackedDataset], stage: Stage, options: argparse.Namespace) -> list[Fed]:
    """A running loader for every decode mode and number of threads."""
    found = []
    for feed in options.feeds:
        decode, raw = FEEDS[feed]
        rows = np.resize(np.flatnonzero(data[raw].packed), EPOCH)
        for threads in options.threads:
            wanted = LoaderOptions(stage.size, stage.batch, threads, decode, options.device)
            loader = Loader(data[raw], rows, wanted, shuffle=True, augment=AugmentOptions(), drop_last=True)
            found.append(Fed(feed, threads, _endless(loader), stage.batch))
    return found


def _endless(loader: Loader) -> Iterator[torch.Tensor]:
    while True:
        for images, _ in loader:
            yield images


def training_step(arch: str, stage: Stage, hardware: Hardware) -> Callable[[torch.Tensor], object]:
    """The trainer's optimizer step on a batch, with targets that are zero; it does not wait for the GPU."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = create(ModelOptions(arch, stage.size, pretrained=False), FINDINGS).to(hardware.device).train()
    loss = LossModule(LOSSES["bce"](), *[np.ones(FINDINGS)] * 2).to(hardware.device)
    step = Step(model, loss, adamw(model, lr=1e-4, weight_decay=1e-6), grad_scaler(hardware), hardware)
    wanted = torch.zeros(stage.batch, FINDINGS, device=hardware.device)
    return lambda images: step(images, wanted, 0, stage.batch)


# ---------------------------------------------------------------- runs


def drawn(fed: Fed, count: int, device: str) -> Run:
    """`count` batches for a consumer that does nothing."""
    for _ in range(LEAD):
        next(fed.batches)
    cpu, start = results.tree_cpu_seconds(), time.perf_counter()
    for _ in range(count):
        next(fed.batches)
    _synchronize(device)
    seconds = time.perf_counter() - start
    return Run(count * fed.batch, seconds, results.tree_cpu_seconds() - cpu)


@dataclass(frozen=True)
class Trained:
    """A run of training steps; waited: seconds in which the process waited for batches."""

    rate: float
    waited_share: float


def trained(step: Callable, batches: Iterator[torch.Tensor], batch: int, count: int, device: str) -> Trained:
    """`count` steps. On a GPU its own clock counts: to wait for it before would let the loader get ahead."""
    for _ in range(LEAD):
        step(next(batches))
    clock, waited = _Clock(device), 0.0
    for _ in range(count):
        before = time.perf_counter()
        images = next(batches)
        waited += time.perf_counter() - before
        step(images)
    seconds = clock.seconds()
    return Trained(count * batch / seconds, waited / seconds)


class _Clock:
    """Seconds from when the device has done what it was given before, to when it has done all."""

    def __init__(self, device: str):
        self._device = device
        self._start = self._now()

    def seconds(self) -> float:
        end = self._now()
        _synchronize(self._device)
        return end - self._start if isinstance(end, float) else self._start.elapsed_time(end) / 1000

    def _now(self):
        if not self._device.startswith("cuda"):
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


# ---------------------------------------------------------------- measuring


def measure_stage(data: Mapping[bool, PackedDataset], stage: Stage, options: argparse.Namespace) -> list[dict]:
    """The rows of a stage: supply, demand, beside, and the rule that follows."""
    found = feeds(data, stage, options)
    rows = supply_rows(found, options)
    supply = [row for row in rows if "contender" in row]
    _print_supply(stage, supply)
    rows.append({"demand": DERIVED, "images_per_second": published.images_per_second(stage.size)})
    if options.step:
        rows += beside_rows(found, stage, options)
    else:
        rows.append({"demand": "this machine", "images_per_second": None, "not_measured": "no GPU"})
    rows += [rule for row in rows if row.get("demand") and row["images_per_second"] for rule in rules(row, supply)]
    return [{**asdict(stage), **row} for row in rows]


def rules(demand: Mapping, supply: Sequence[dict]) -> list[dict]:
    """What follows from a demand's row for every decode mode: the threads, and how many cores are busy at that rate."""
    rate, found = demand["images_per_second"], []
    rate = rate if isinstance(rate, float) else rate["median"]
    for feed in dict.fromkeys(row["feed"] for row in supply):
        own = [row for row in supply if row["feed"] == feed]
        needed = threads_needed(rate, {row["threads"]: row["images_per_second"]["median"] for row in own})
        cores = rate * own[0]["cpu_seconds_per_1000"] / 1000
        found.append(
            {
                "rule": demand["demand"],
                "feed": feed,
                "demanded": rate,
                "headroom": HEADROOM,
                "threads_needed": needed,
                "cores_busy": cores,
            }  # fmt: skip
        )
        print(
            f"  {demand['demand']}, {rate:,.0f} images/s, {feed}: {'more' if needed is None else needed} for "
            f"{HEADROOM:g} times that, {cores:.2f} cores busy at it",
            flush=True,
        )
    return found


def supply_rows(found: Sequence[Fed], options: argparse.Namespace) -> list[dict]:
    counts = {}
    for fed in found:
        drawn(fed, 1, options.device)  # the pipeline's first batches
        rate = drawn(fed, LEAD, options.device).rate
        counts[fed] = max(LEAD, round(rate * options.seconds / fed.batch))
    runs = {fed: [] for fed in found}
    for _ in range(options.rounds):
        for fed in found:
            runs[fed].append(drawn(fed, counts[fed], options.device))
    return [{"feed": fed.feed, "threads": fed.threads, **results.rate_row(fed.words, runs[fed])} for fed in found]


def beside_rows(found: Sequence[Fed], stage: Stage, options: argparse.Namespace) -> list[dict]:
    """The step's rate on cached batches, and then what each loader makes of it."""
    hardware = Hardware.resolve(options.device, options.precision)
    step, device = training_step(options.arch, stage, hardware), hardware.device
    kept = [next(found[0].batches).clone() for _ in range(4)]
    sources = {None: cycle(kept), **{fed: fed.batches for fed in found}}
    rate = [trained(step, sources[None], stage.batch, LEAD, device) for _ in range(2)][1].rate
    count = max(LEAD, round(rate * options.step_seconds / stage.batch))
    runs = {fed: [] for fed in sources}
    for _ in range(options.rounds):
        for fed, batches in sources.items():
            runs[fed].append(trained(step, batches, stage.batch, count, device))
    rates = {fed: Spread.of([run.rate for run in each]) for fed, each in runs.items()}
    common = {"arch": options.arch, "precision": hardware.precision}
    name = torch.cuda.get_device_name(device) if device != "cpu" else "this machine's CPU"
    print(
        f"  beside a step of {options.arch}, {hardware.precision}: {rates[None].median:,.0f} images/s on cached batches"
    )
    rows = [{"demand": name, "images_per_second": asdict(rates[None]), **common}]
    for fed in found:
        waiting = Spread.of([run.waited_share for run in runs[fed]])
        met = waiting.median <= MOST_WAITING
        slower = 1 - median(
            mine.rate / ceiling.rate for mine, ceiling in zip(runs[fed], runs[None], strict=True)
        )  # a round at a time: the machine's own swings are in both
        print(
            f"    {fed.words:22} {rates[fed].median:9,.0f} images/s, waiting {waiting.median:6.1%}, "
            f"{slower:6.1%} slower   {'PASS' if met else 'MISS'}",
            flush=True,
        )
        rows.append(
            {
                "beside": fed.words,
                "feed": fed.feed,
                "threads": fed.threads,
                "images_per_second": asdict(rates[fed]),
                "waiting_share": asdict(waiting),
                "slower_share": slower,
                "at_most": MOST_WAITING,
                "met": met,
                **common,
            }  # fmt: skip
        )
    return rows


def _print_supply(stage: Stage, supply: Sequence[dict]) -> None:
    print(f"{stage.size} pixels, batches of {stage.batch}")
    results.print_rates(supply)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading.demand", description=__doc__.splitlines()[0])
    parser.add_argument("--stages", default=STAGES, help="SIZE:BATCH,... in pixels and images [%(default)s]")
    parser.add_argument("--threads", help="N,... of DALI [1,2,4,8,16, up to twice the cores]")
    parser.add_argument("--feeds", help=f"of {', '.join(FEEDS)} [all; without a GPU: cpu,raw]")
    parser.add_argument("--rounds", type=int, help="timed runs of each [5; GPU: 3]")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a loader's run, about [%(default)s]")
    parser.add_argument("--step-seconds", type=float, default=0.8, help="of a run beside the step [%(default)s]")
    parser.add_argument("--studies", type=int, default=400, help="of the synthetic release [%(default)s]")
    parser.add_argument("--device", default="cpu", help="cpu or cuda[:N] [%(default)s]")
    parser.add_argument(
        "--step", action="store_true", help="train on a CPU too, which takes the loader's cores: a trial"
    )
    parser.add_argument("--arch", default="tf_efficientnetv2_s.in21k_ft_in1k", help="timm network [%(default)s]")
    parser.add_argument("--precision", default="auto", help="auto, bf16, fp16 or fp32 [%(default)s]")
    results.add_save_option(parser, "demand")
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    options.stages = [Stage.parse(text) for text in options.stages.split(",")]
    options.feeds = options.feeds.split(",") if options.feeds else [*FEEDS] if on_gpu else ["cpu", "raw"]
    unknown = set(options.feeds) - set(FEEDS)
    if unknown:
        parser.error(f"--feeds {min(unknown)!r}: choose from {', '.join(FEEDS)}")
    counts = options.threads.split(",") if options.threads else [n for n in (1, 2, 4, 8, 16) if n <= 2 * _cores()]
    options.threads = [int(count) for count in counts]
    options.rounds = options.rounds or (3 if on_gpu else 5)
    options.step = options.step or on_gpu
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)  # torch's idle threads spin, and would take the cores from the decoder
    try:
        Hardware.resolve(options.device, options.precision)
        environment = results.environment("benchmarks.loading.demand", options.device)
        with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
            data = prepare(options, Path(folder))
            where = f"{environment['cores']} cores, {environment['gpu'] or 'no GPU'}, warm cache"
            print(f"{environment['cpu']}, {where}; about {_minutes(options):.1f} minutes")
            rows = [row for stage in options.stages for row in measure_stage(data, stage, options)]
    except UserError as error:
        sys.exit(str(error))
    if options.save:
        path = results.save([{"data": "synthetic", **row} for row in rows], environment, options.save, "demand")
        print(f"{len(rows)} rows -> {path}")


def _minutes(options: argparse.Namespace) -> float:
    """About: runs are sized by time, and LEAD batches and a pipeline's start come on top."""
    each = (options.rounds + 1) * 1.5 * options.seconds + 0.5
    each += options.rounds * 1.5 * options.step_seconds if options.step else 0
    return len(options.stages) * len(options.feeds) * len(options.threads) * each / 60


if __name__ == "__main__":
    main()
