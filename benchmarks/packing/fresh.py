"""Work in a new process, so that no memory or worker of an earlier run is left, and the memory that it takes."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import psutil
from joblib.externals.loky import get_reusable_executor

from benchmarks.memory import sampled
from benchmarks.results import Run

STARTED_SECONDS = 0.05


@dataclass(frozen=True)
class FreshRun:
    """A run in processes of its own: `peak_bytes` is resident memory, summed over them."""

    run: Run
    peak_bytes: int


def fresh(work: Callable[..., Run], *arguments) -> FreshRun:
    """Run `work` in a new process and watch its memory and that of all its descendants."""
    others = {process.pid for process in psutil.Process().children(recursive=True)}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor, sampled(lambda: _resident_bytes(others)) as samples:
        run = executor.submit(work, *arguments).result()
    return FreshRun(run, max(samples))


def end_workers(jobs: int) -> None:
    """Idle workers of joblib would keep a process of multiprocessing from ending for five minutes."""
    if jobs > 1:
        get_reusable_executor().shutdown()


def _resident_bytes(others: set[int]) -> int:
    """Of this process's descendants without `others`."""
    processes = psutil.Process().children(recursive=True)
    return sum(_resident(process) for process in processes if process.pid not in others)


def _resident(process: psutil.Process) -> int:
    """Of one that has just been started nothing: for a moment it is its parent's copy, which would count twice."""
    try:
        return process.memory_info().rss if time.time() - process.create_time() > STARTED_SECONDS else 0
    except psutil.NoSuchProcess:
        return 0
