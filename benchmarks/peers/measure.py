"""One stage of `benchmarks.peers`: baselines are started, checked, given their best settings, and timed in turn."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import results
from benchmarks.page_cache import cached_share, drop_from_cache
from benchmarks.peers import checks, install
from benchmarks.peers.registry import How
from benchmarks.peers.served import Served
from benchmarks.peers.work import AUGMENT, STILL, Work
from benchmarks.results import Run
from shards.dataset.packed import PackedDataset

MOST_CACHED = 0.02  # of the shards' bytes: what a cold run may find in memory
LOOK = 256  # images that are compared with the stored ones


@dataclass(frozen=True)
class Timing:
    """rounds: timed runs of each baseline; seconds: the length of a run, about; envs: where `install` put the peers."""

    rounds: int
    seconds: float
    envs: Path | None = None


@dataclass(frozen=True)
class Started:
    """A baseline with the settings that were found best. more: what its rows say of it."""

    served: Served
    run: Callable[[], int]
    more: dict = field(default_factory=dict)


class Refused(RuntimeError):
    """A baseline does other work, or none; the first line says why."""


def start(
    work: Work, wanted: Mapping[str, How], timing: Timing, stack: ExitStack
) -> tuple[dict[str, Started], dict[str, str]]:
    """The baselines by their names with the settings chosen, and why others are not measured."""
    found, missing = {}, {}
    stored = cache(partial(checks.stored_images, work))
    for name, how in wanted.items():
        begun = time.perf_counter()
        version, why = install.state(timing.envs, how.needs) if how.needs else (None, None)
        if why is None:
            try:
                variant, started = _best(work, how, timing, stored(how.raw), stack)
            except Refused as error:
                why = str(error)
        if why is not None:
            if how.make.startswith("ours."):
                raise Refused(f"{name}: {why}")
            missing[name] = why
            print(f"  {name}: not measured ({why})", flush=True)
            continue
        full = f"{name}, {variant}" if variant else name
        found[full] = started
        started.more.update({"version": version} if version else {}, **({"note": how.note} if how.note else {}))
        tried = started.more.get("tried", {})
        print(f"  {full}: as wanted, {time.perf_counter() - begun:.0f} s" + (f" {tried}" if tried else ""), flush=True)
    return found, missing


def _best(work: Work, how: How, timing: Timing, stored: np.ndarray, stack: ExitStack) -> tuple[str, Started]:
    """Every setting is tried for a moment, and the fastest stays."""
    rates, best, errors = {}, None, []
    for variant, arguments in how.variants.items():
        served = None
        try:
            served = Served(how.make, work, *arguments, python=install.python_of(timing.envs, how.needs))
            _check(served, how, stored)
            run, rates[variant] = sized_run(served, timing.seconds, several=len(how.variants) > 1)
        except RuntimeError as error:
            errors.append(f"{variant}: {install.reason(str(error))}".removeprefix(": "))
            if served:
                served.close()
            continue
        if best is not None and rates[variant] < rates[best[0]]:
            served.close()
            continue
        if best is not None:
            best[1].served.close()
        best = (variant, Started(served, run))
    if best is None:
        raise Refused("; ".join(errors))
    stack.callback(best[1].served.close)
    if len(how.variants) > 1:
        tried = {variant: f"{rate:,.0f}" for variant, rate in rates.items()}
        best[1].more["tried"] = tried | {error.partition(": ")[0]: error.partition(": ")[2] for error in errors}
    return best


def _check(served: Served, how: How, stored: np.ndarray) -> None:
    if how.levels is None:
        return
    for augment in (STILL, AUGMENT):
        served.open(served.step, augment)
        wrong = checks.difference(served.look(LOOK), stored, STILL if how.still else augment, how.levels)
        if wrong:
            raise RuntimeError(f"refused: {wrong}")


def sized_run(served: Served, seconds: float, several: bool = False) -> tuple[Callable[[], int], float]:
    """A run that takes about `seconds`, and its rate: of the second of two short runs, or with `several` of the faster
    of two whole ones."""
    short = served.open(served.step, AUGMENT)
    short()
    rate = served.timed(short).rate
    run = served.open(_images(served, rate * seconds), AUGMENT)
    if several:
        rate = max(served.timed(run).rate for _ in range(2))  # the first one warms up
    return run, rate


def _images(served: Served, images: float) -> int:
    return max(1, round(images / served.step)) * served.step


# ---------------------------------------------------------------- timed runs


def warm(found: Mapping[str, Started], timing: Timing) -> list[dict]:
    """A row per baseline: one run in which its memory is watched, then runs in turn."""
    peaks = {name: each.served.peak_mib(each.run) for name, each in found.items()}
    timed = {name: [] for name in found}
    for number in range(timing.rounds):
        begun = time.perf_counter()
        for name, each in found.items():
            timed[name].append(each.served.timed(each.run))
        print(f"  round {number + 1} of {timing.rounds}: {time.perf_counter() - begun:.0f} s", flush=True)
    return [_row(name, each, timed[name], cache="warm", peak_mib=peaks[name]) for name, each in found.items()]


def _row(name: str, baseline: Started, runs: Sequence[Run], **more: object) -> dict:
    stored = {"stored_bytes_per_image": baseline.served.stored_bytes}
    return results.rate_row(name, runs) | more | stored | baseline.more


def cold(found: Mapping[str, Started], work: Work, folder: Path, rounds: int) -> list[dict]:
    """A run is one pass over the images, after all files were dropped from the page cache; workers are warm."""
    served = {name: each.served for name, each in found.items() if each.served.forgets}
    count = int(PackedDataset.open(work.data.jpeg).packed.sum())
    runs = {name: each.open(math.ceil(count / each.step) * each.step, AUGMENT) for name, each in served.items()}
    for run in runs.values():
        run()
    timed = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for each in served.values():
                each.forget()
            drop_from_cache(folder)
            left = cached_share([tar for packed in (work.data.jpeg, work.data.raw) for tar in packed.rglob("*.tar")])
            if left > MOST_CACHED:
                why = f"{left:.0%} of the shards' bytes stay in memory under {folder}; set TMPDIR to a folder on a disk"
                return [{"baseline": each, "cache": "cold", "not_measured": why} for each in served]
            timed[name].append(served[name].timed(run))
    read = {name: median(run.read_bytes / run.images for run in runs) for name, runs in timed.items()}
    return [
        _row(name, found[name], timed[name], cache="cold") | {"read_bytes_per_image": read[name]} for name in served
    ]
