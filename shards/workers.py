"""Worker processes, and a watch over those that make shards: a progress bar, and an error instead of a hang.

If a worker dies, the run ends with an error of one line. A worker that finishes no image for `stall` seconds (a stopped
process, a storage that does not answer) is killed, which ends the run in the same way. If no worker finishes any image
for so long, all are killed. A process that waits in the kernel for a dead network disk cannot be killed; then the run
ends when the disk answers.

joblib's own pool leaves ten names in /dev/shm when its process group is killed, and at its end waits for a worker that
hangs; so only its way to start a process is used here, which does not import the program that asked.
"""

import contextlib
import multiprocessing
import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from joblib.externals.loky.backend import get_context

from shards.errors import UserError
from shards.progress import progress_bar

LOOK = 0.5  # seconds between two looks
IDLE = 25.0  # seconds in which some worker must use the processor
DONE, ALIVE = b".", b"-"  # a worker's marks: an image is finished; one takes long, and is seen to
_watched: set[int] = set()  # by this worker: `end_with`


def run(tasks: Iterable, jobs: int, what: str, idle: float | None = None) -> Iterator:
    """Results of joblib's `tasks` (`joblib.delayed`) as they finish, made by `jobs` processes; one job is made here.

    Raises UserError if a worker process dies, or if for `idle` seconds (by default IDLE) none of them uses the
    processor; `what` names the work.
    """
    tasks = iter(tasks)
    if jobs == 1:
        yield from (function(*arguments, **named) for function, arguments, named in tasks)
        return
    with _Pool(what, IDLE if idle is None else idle) as pool:
        task = next(tasks, None)
        while task or pool.busy:
            while task and len(pool.busy) < jobs:
                pool.begin(task)
                task = next(tasks, None)  # in advance, while all are at work
            yield from pool.finished()


class _Pool:
    def __init__(self, what: str, idle: float):
        self._what, self._idle = what, idle
        self.busy: list[Connection] = []
        self._free: list[Connection] = []
        self._workers: dict[Connection, Any] = {}
        self._used, self._waited = 0, 0.0

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in self._workers.values():
            _kill(worker.pid)
        for connection, worker in self._workers.items():
            worker.join(LOOK)
            connection.close()

    def begin(self, task: tuple) -> None:
        connection = self._free.pop() if self._free else self._start()
        self.busy.append(connection)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which `finished` sees
            connection.send(task)

    def _start(self) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        self._workers[ours] = worker = get_context("loky").Process(target=_work, args=(theirs,))
        worker.start()
        theirs.close()
        return ours

    def finished(self) -> Iterator:
        """What has been made since, if anything."""
        ready = wait(self.busy, LOOK)
        self._look(bool(ready))
        for connection in ready:
            assert isinstance(connection, Connection)
            try:
                error, result = connection.recv()
            except (EOFError, OSError):
                raise self._death(connection) from None
            if error:
                raise error
            self.busy.remove(connection)
            self._free.append(connection)
            yield result

    def _death(self, connection: Connection) -> UserError:
        worker = self._workers[connection]
        worker.join(LOOK)
        code = worker.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return UserError(
            f"{self._what}: a worker process was killed ({how}; by the kernel, if memory ran out); give the same "
            "command again, with fewer --jobs if that was it"
        )

    def _look(self, news: bool) -> None:
        """Time is counted in looks: stopping everything (Ctrl-Z) and going on later is no idleness."""
        used = sum(_ticks(worker.pid) for worker in self._workers.values())
        self._waited = 0.0 if news or used != self._used else self._waited + LOOK
        self._used = used
        if self._waited > self._idle:
            raise UserError(
                f"{self._what}: no worker process has used the processor for {self._idle:.0f} s, and all were ended: "
                "they are stopped, or the storage does not answer; give the same command again"
            )


def _work(connection: Connection) -> None:
    """A worker process: it makes the tasks that it gets, until there is nobody to ask for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, arguments, named = connection.recv()
            send_answer(connection, function, *arguments, **named)


def send_answer(connection: Connection, function: Callable, /, *arguments: object, **named: object) -> None:
    """Call, and send (None, what it returned), or (the error, None) with its traceback as a note."""
    answer: tuple[Exception | None, object]
    try:
        answer = None, function(*arguments, **named)
    except Exception as error:
        error.add_note(traceback.format_exc().rstrip())
        answer = error, None
    connection.send(answer)


def _ticks(process: int) -> int:
    """Processor time of a process."""
    with contextlib.suppress(OSError):  # it has ended
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return int(words[11]) + int(words[12])
    return 0


def end_with(parent: int) -> None:
    """In a worker of this machine: end it when the process that gave the task dies. It would go on with its task."""
    if parent == os.getpid() or parent in _watched:
        return
    _watched.add(parent)
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(1)

    def watch():
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Watch:
    """Follows `folder`/SHARD.PROCESS.marks, to which the workers append DONE and ALIVE, while `with` lasts.

    Only a file's growth counts, so clocks of other machines do not matter; and only time in which this process ran,
    so that stopping everything (Ctrl-Z) and going on later is no stall.
    """

    def __init__(self, folder: Path, images: int, stall: float, image_of: Callable[[int, int], str]):
        """`image_of(shard, place)` names the image that a stalled worker was at."""
        self._folder, self._images, self._stall, self._image_of = folder, images, stall, image_of
        self._bar = progress_bar("packing", images, " images", hidden=not images, smoothing=0.05)
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}
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

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
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
            reached = min(self._images, self._finished + sum(done for (done, _), _ in live.values()))
            self._bar.update(max(0, reached - self._bar.n))
            if reached != self._moved[0]:
                self._moved = reached, self._clock
            for name, ((done, _), since) in live.items():
                if self._clock - since > self._stall:
                    self._end(name, done)
            if not live and reached < self._images and self._clock - self._moved[1] > self._stall:
                self._end_all()

    def _look(self) -> dict[str, tuple[tuple[int, int], float]]:
        """Per file of marks what it holds, and since when."""
        live = {}
        for name, marks in self._marks().items():
            known = self._seen.get(name)
            live[name] = known if known and known[0] == marks else (marks, self._clock)
        self._seen = live
        return live

    def _marks(self) -> dict[str, tuple[int, int]]:
        """Per file of marks the finished images, and all marks."""
        found = {}
        for path in self._folder.glob("*.marks"):
            with contextlib.suppress(OSError):  # it is gone, or a network disk has its moments
                marks = path.read_bytes()
                found[path.name] = marks.count(DONE), len(marks)
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
