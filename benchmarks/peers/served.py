"""A baseline of `benchmarks.peers` in a process of its own, so that CPU time and memory are its alone.

The process has the interpreter of the baseline's own environment where it needs one. The other baselines' processes
live, too, but wait for a request while one runs.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.memory import sampled
from benchmarks.results import Run

ROOT = Path(__file__).parents[2]
PRELOAD = ["benchmarks.peers.images", "benchmarks.peers.paper", "albumentations.pytorch"]  # once for all workers

Pass = Callable[[], Iterable]  # gives the batches of a run
Open = Callable[[int, Any], Pass]  # images of a run, AugmentOptions -> the run


@dataclass(frozen=True)
class Baseline:
    """open: makes a run. step: images of a run are a multiple of it, so that every worker has the same number of
    whole batches. stored_bytes: what is stored of an image, on average. forget: lets go of mapped pages, so that the
    kernel can drop them; None for a baseline that is not measured cold."""

    open: Open
    step: int
    stored_bytes: float
    forget: Callable[[], None] | None = None


def make(name: str, *arguments) -> Baseline:
    """A Baseline by the function that makes it, as MODULE.FUNCTION of this folder."""
    module, function = name.split(".")
    return getattr(importlib.import_module(f"benchmarks.peers.{module}"), function)(*arguments)


class Served:
    """Starts a process that makes a Baseline by `make(name, work, *arguments)`, and passes on what is asked of it.

    Raises RuntimeError with the process's own traceback if anything in it fails.
    """

    def __init__(self, name: str, work: Any, *arguments, python: Path | str = sys.executable):
        self._connection, theirs = multiprocessing.Pipe()
        descriptor = theirs.fileno()
        # -c: workers would import a main module once more; -P: no file here is taken for a peer's package
        command = [str(python), "-P", "-c", f"from {__name__} import serve; serve({descriptor})"]
        there = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, env=there, pass_fds=[descriptor], stdin=subprocess.DEVNULL)
        theirs.close()
        self._connection.send((name, work, *arguments))
        self.step, self.stored_bytes, self.forgets = self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(self, images: int, augment: Any) -> Callable[[], int]:
        """A run of so many images, which returns how many came out; the run opened before is given up."""
        self._ask("open", (images, augment))
        return lambda: self._ask("run", None)

    def look(self, images: int):
        """The first images of a run: uint8 [N, S, S] (for three channels that differ [N, S, S, 3])."""
        return self._ask("look", images)

    def forget(self) -> None:
        self._ask("forget", None)

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def timed(self, run: Callable[[], int]) -> Run:
        return results.timed(run, self.pid)

    def peak_mib(self, run: Callable[[], int]) -> float:
        """The most memory that the process and its workers held during a run: anonymous and shared memory, a page
        that several hold counted once. Mapped files are not in it: the kernel drops them when it needs the room."""
        with sampled(lambda: sum(_own_kib(each.pid) for each in results.processes(self.pid))) as samples:
            run()
        return max(samples) / 1024

    def _ask(self, what: str, value: Any):
        self._connection.send((what, value))
        return self._answer()

    def _answer(self):
        try:
            failed, answer = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise RuntimeError("a baseline's process ended without an answer") from error
        if failed:
            raise RuntimeError(f"a baseline failed:\n{answer}")
        return answer


def serve(descriptor: int) -> None:
    """What the process runs: answers requests from a pipe until that is closed."""
    import cv2
    import torch

    connection = Connection(descriptor)

    torch.set_num_threads(1)  # torch's idle threads spin, and would take the cores from the decoder
    cv2.setNumThreads(0)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # twice the cores is on purpose
    threading.excepthook = _end  # FFCV would wait for ever for the batches of a thread that failed
    given: Pass | None = None
    try:
        name, work, *arguments = connection.recv()
        peer = name.partition(".")[0]  # its package has its file's name, where it has one
        multiprocessing.set_forkserver_preload(PRELOAD if peer == "paper" else [*PRELOAD[:1], peer])
        baseline = make(name, work, *arguments)
        connection.send((False, (baseline.step, baseline.stored_bytes, baseline.forget is not None)))
        while True:
            try:
                what, value = connection.recv()
            except EOFError:
                return
            answer = None
            if what == "open":
                given = None  # its workers end before the next ones start
                given = baseline.open(*value)
            elif what == "run":
                answer = consume(given(), work.device)
            elif what == "look":
                answer = seen(given(), value)
            else:
                baseline.forget()
            connection.send((False, answer))
    except Exception:
        connection.send((True, traceback.format_exc()))
        sys.exit(1)


def consume(batches: Iterable, device: str) -> int:
    """Wait for every batch to arrive on the device; returns the number of images."""
    images = 0
    for batch in batches:
        images += len(batch.to(device, non_blocking=True) if hasattr(batch, "to") else batch)
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
    return images


def seen(batches: Iterable, images: int):
    """Copies of the first images: uint8 [N, S, S]; three channels become one where they are equal."""
    import numpy as np

    found, count = [], 0
    for batch in batches:  # to its end, as a run
        if count < images:
            pixels = batch.cpu().numpy()
            pixels = pixels[:, 0] if pixels.ndim == 4 and pixels.shape[1] == 1 else pixels
            if pixels.ndim == 4 and (pixels == pixels[..., :1]).all():
                pixels = pixels[..., 0]
            found.append(pixels[: images - count].copy())
            count += len(found[-1])
    return np.concatenate(found)


def _end(failed) -> None:
    sys.excepthook(failed.exc_type, failed.exc_value, failed.exc_traceback)
    os._exit(1)


def _own_kib(pid: int) -> int:
    """A process's share of anonymous and of shared memory; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
