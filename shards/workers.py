"""Worker processes that make shards, and a watch over them: a progress bar, and an error instead of a hang.

If a worker dies, the run ends with an error of one line. A worker that finishes no image for `stall` seconds (a stopped
process, a storage that does not answer) is killed, which ends the run in the same way. If no worker finishes any image
for so long, all are killed. A process that waits in the kernel for a dead network disk cannot be killed; then the run
ends when the disk answers.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType

import joblib
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from shards.errors import UserError

LOOK = 0.5  # seconds between two looks


def run(tasks: Iterable, jobs: int, what: str) -> Iterator:
    """Results of joblib's `tasks` as they finish. Raises UserError if a worker process dies; `what` names the work."""
    try:
        yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(tasks)
        if jobs > 1:  # joblib keeps idle workers, and at its end the process would wait for one that hangs
            get_reusable_executor(reuse=True).shutdown(kill_workers=True)
    except BrokenProcessPool as error:
        raise UserError(
            f"{what}: a worker process was killed (by the kernel, if memory ran out); give the same command again, "
            "with fewer --jobs if that was it"
        ) from error


class Watch:
    """Follows `folder`/SHARD.PROCESS.marks, to which the workers append a byte per image, while `with` lasts.

    Only a file's growth counts, so clocks of other machines do not matter; and only time in which this process ran,
    so that stopping everything (Ctrl-Z) and going on later is no stall.
    """

    def __init__(self, folder: Path, images: int, stall: float, image_of: Callable[[int, int], str]):
        """`image_of(shard, place)` names the image that a stalled worker was at."""
        self._folder, self._images, self._stall, self._image_of = folder, images, stall, image_of
        self._bar = tqdm(total=images, unit=" images", desc="packing", disable=None if images else True, smoothing=0.05)
        self._seen: dict[str, tuple[int, float]] = {}
        self._finished, self._clock, self._moved = 0, 0.0, (0, 0.0)
        self._stop = threading.Event()
        self.stalled: str | None = None

    def finished(self, images: int) -> None:
        """A shard of so many images is done; its marks are gone."""
        self._finished += images

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self._bar.update(self._images - self._bar.n)
        self._bar.close()
        if self.stalled and isinstance(error, UserError):
            raise UserError(self.stalled) from error

    def _follow(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(LOOK):
            now = time.monotonic()
            self._clock += min(now - before, 2 * LOOK)
            before = now
            live = self._look()
            reached = min(self._images, self._finished + sum(size for size, _ in live.values()))
            self._bar.update(max(0, reached - self._bar.n))
            if reached != self._moved[0]:
                self._moved = reached, self._clock
            for name, (size, since) in live.items():
                if self._clock - since > self._stall:
                    self._end(name, size)
            if not live and reached < self._images and self._clock - self._moved[1] > self._stall:
                self._end_all()

    def _look(self) -> dict[str, tuple[int, float]]:
        """Per file of marks its size, and since when it has had it."""
        live = {}
        for name, size in self._marks().items():
            known = self._seen.get(name)
            live[name] = known if known and known[0] == size else (size, self._clock)
        self._seen = live
        return live

    def _marks(self) -> dict[str, int]:
        found = {}
        for path in self._folder.glob("*.marks"):
            with contextlib.suppress(OSError):  # it is gone, or a network disk has its moments
                found[path.name] = path.stat().st_size
        return found

    def _end_all(self) -> None:
        """No worker has begun a shard, or none takes the next one: whichever it is, it has no marks."""
        if not self.stalled and (workers := multiprocessing.active_children()):
            self.stalled = (
                f"{self._folder}: no worker has begun a shard for {self._stall:.0f} s, and all were ended; "
                "the same command continues; if the machine is that slow, raise --stall"
            )
            for worker in workers:
                _kill(worker.pid)

    def _end(self, name: str, place: int) -> None:
        shard, process = (int(word) for word in name.split(".")[:2])
        if self.stalled or process == os.getpid():
            return
        self.stalled = (
            f"{self._image_of(shard, place)}: the worker of shard {shard:06d} has finished no image for "
            f"{self._stall:.0f} s and was ended; the same command continues; if the storage is that slow, raise --stall"
        )
        _kill(process)


def _kill(process: int | None) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process is not None:
            os.kill(process, signal.SIGKILL)
