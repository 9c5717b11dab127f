"""A baseline of `benchmarks.loading.loader` in a process of its own, so that CPU time and memory are its alone.

The other baselines' processes live, too, but wait for a request while one runs.
"""

import multiprocessing
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import results
from benchmarks.memory import sampled
from benchmarks.results import Run

PRELOAD = ["benchmarks.loading.baselines", "benchmarks.loading.webdataset_cv", "albumentations.pytorch"]  # once for all

Open = Callable[[int], Callable[[], int]]  # images of a run -> the run, which returns how many came out


@dataclass(frozen=True)
class Baseline:
    """open: makes a run. step: images of a run are a multiple of it, so that every worker has the same number of
    whole batches. stored_bytes: what is stored of an image, on average. forget: lets go of mapped pages, so that the
    kernel can drop them; None for a baseline that is not measured cold."""

    open: Open
    step: int
    stored_bytes: float
    forget: Callable[[], None] | None = None


class Served:
    """Starts a process that makes a Baseline by `make(*arguments)`, and passes on what is asked of it.

    Raises RuntimeError with the process's own traceback if anything in it fails.
    """

    def __init__(self, make: Callable[..., Baseline], *arguments):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        self._process.start()
        theirs.close()
        self.step, self.stored_bytes, self.forgets = self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(self, images: int) -> Callable[[], int]:
        """A run of so many images; the run opened before is given up."""
        self._ask("open", images)
        return lambda: self._ask("run", None)

    def forget(self) -> None:
        self._ask("forget", None)

    def close(self) -> None:
        self._connection.close()
        self._process.join(20)
        self._process.kill()

    def timed(self, run: Callable[[], int]) -> Run:
        return results.timed(run, self.pid)

    def peak_mib(self, run: Callable[[], int]) -> float:
        """The most memory that the process and its workers held during a run: anonymous and shared memory, a page
        that several hold counted once. Mapped files are not in it: the kernel drops them when it needs the room."""
        with sampled(lambda: sum(_own_kib(each.pid) for each in results.processes(self.pid))) as samples:
            run()
        return max(samples) / 1024

    def _ask(self, what: str, value: int | None):
        self._connection.send((what, value))
        return self._answer()

    def _answer(self):
        try:
            failed, answer = self._connection.recv()
        except EOFError as error:
            raise RuntimeError("a baseline's process ended without an answer") from error
        if failed:
            raise RuntimeError(f"a baseline failed:\n{answer}")
        return answer


def _serve(connection: Connection, make: Callable[..., Baseline], arguments: tuple) -> None:
    import cv2
    import torch

    torch.set_num_threads(1)  # torch's idle threads spin, and would take the cores from the decoder
    cv2.setNumThreads(0)
    multiprocessing.set_forkserver_preload(PRELOAD)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # twice the cores is on purpose
    run = None
    try:
        baseline = make(*arguments)
        connection.send((False, (baseline.step, baseline.stored_bytes, baseline.forget is not None)))
        while True:
            try:
                what, value = connection.recv()
            except EOFError:
                return
            answer = None
            if what == "open":
                run = None  # its workers end before the next ones start
                run = baseline.open(value)
            elif what == "run":
                answer = run()
            else:
                baseline.forget()
            connection.send((False, answer))
    except Exception:
        connection.send((True, traceback.format_exc()))
        sys.exit(1)


def _own_kib(pid: int) -> int:
    """A process's share of anonymous and of shared memory; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
