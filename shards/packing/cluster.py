"""Shards made by the workers of a Dask cluster.

Which worker makes what, and what happens to the shards of one that is lost, is Dask's. Before any shard is made every
worker is asked whether it sees the same files and has the same versions; one that joins later is asked with its first
shard. A worker reports the images that it has finished through the scheduler, so it needs no other way to this machine.

A worker of another machine cannot be killed from here. One that finishes no image for `stall` seconds and the time in
which Dask itself notices a lost machine ends the run with an error; what it may still finish is a whole shard.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import cv2

from shards import __version__
from shards.errors import UserError
from shards.packing.engine import Tasks, Work
from shards.packing.make_shard import ShardTask, write_shard
from shards.storage.files import cannot_write
from shards.storage.remote import is_remote
from shards.workers import LOOK, Watch

CONNECT = 20.0  # seconds in which the scheduler must answer
WORKERS = 30.0  # seconds in which the first worker must be there, and all that are must answer
LEAVE = 5.0  # seconds in which the scheduler must take note that this client goes
LOST = 35.0  # seconds that Dask takes to notice that a machine answers no more, and a little
QUEUED = 16  # least number of shards handed out: workers that join later find something to do at once


@dataclass(frozen=True)
class Dask:
    """The workers of the cluster of a scheduler; without one, `jobs` of a cluster that lasts as long as the run."""

    scheduler: str | None = None
    jobs: int = 1

    def make(self, tasks: Tasks, work: Work) -> None:
        if not work.spans:
            return
        work = replace(work, root=_absolute(work.root), out=_absolute(work.out), tmp=work.tmp.absolute())
        with _client(self) as client:
            asked = _question(work)
            _ask(client, asked)
            with DaskWatch(client, asked.topic, work) as watch:
                for shard in _results(client, asked, tasks, watch, work):
                    watch.finished(work.images_of(shard))


def _absolute(path: Path) -> Path:
    """A worker starts in another folder than the packer."""
    return path if is_remote(path) else path.absolute()


@contextlib.contextmanager
def _client(engine: Dask) -> Iterator:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError("--engine dask: Dask is not installed; pip install 'cxrdali[dask]'") from error
    with contextlib.ExitStack() as stack:
        for name in ("distributed", "distributed.client"):  # what matters is said in one line of our own
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        address = engine.scheduler
        if address is None:
            address = stack.enter_context(
                LocalCluster(
                    **{"n_workers": engine.jobs, "threads_per_worker": 1, "dashboard_address": None},
                    silence_logs=logging.CRITICAL,
                )
            )
        else:
            _knock(address)
        client = Client(address, timeout=CONNECT, set_as_default=False)
        stack.callback(_close, client)
        stack.enter_context(client.as_current())
        yield client


def _close(client) -> None:
    with contextlib.suppress(Exception):  # a scheduler that is frozen takes no leave; what ended the run is said
        client.close(timeout=LEAVE)


def _knock(address: str) -> None:
    """Raises UserError if no scheduler answers. Dask's client would wait forever for a port that only listens."""
    from distributed.core import rpc

    async def identity() -> dict:
        async with rpc(address) as scheduler:
            return await scheduler.identity()

    try:
        found = asyncio.run(asyncio.wait_for(identity(), CONNECT))["type"]
    except Exception as error:  # no such host, no such protocol, another kind of server: all the same to the user
        raise UserError(
            f"--scheduler {address}: no Dask scheduler answers there within {CONNECT:.0f} s; start one (dask "
            "scheduler), or give the address that it prints"
        ) from error
    if found != "Scheduler":
        raise UserError(f"--scheduler {address}: is that of a Dask {found.lower()}; give the scheduler's")


# ---------------------------------------------------------------- before any work


@dataclass(frozen=True)
class Question:
    """What a worker must have in common with the packer: token, the content of a file that the packer has just
    written beside the shards; seen: paths and sizes in bytes (None: absent) in the release; versions by name."""

    topic: str
    token: tuple[str, str] | None
    seen: tuple[tuple[str, int | None], ...]
    versions: dict[str, str]


def _question(work: Work) -> Question:
    topic, token, seen = f"cxrdali-{secrets.token_hex(8)}", None, ()
    if not is_remote(work.out):
        path = work.tmp / "token"
        path.write_text(topic)
        token = (str(path), topic)
    if not is_remote(work.root):
        first = min(start for start, _ in work.spans.values())
        paths = (work.root / work.plan.path(row) for row in range(first, min(first + 3, len(work.plan))))
        seen = ((str(work.root), 0), *((str(path), _size(path)) for path in paths))
    return Question(topic, token, seen, _versions())


def _size(path: Path) -> int | None:
    """In bytes; of a folder 0."""
    try:
        return 0 if path.is_dir() else path.stat().st_size
    except OSError:
        return None


def _versions() -> dict[str, str]:
    return {"cxrdali": __version__, "simplejpeg": version("simplejpeg"), "OpenCV": cv2.__version__}


def what_is_wrong(asked: Question) -> str | None:
    """Asked on a worker: what it has not in common with the packer, and the way out; None if all is well."""
    for name, wanted in asked.versions.items():
        if (found := _versions()[name]) != wanted:
            return f"has {name} {found}, this machine {wanted}; install the same, as the bytes depend on it"
    share = "give --source and --out in folders that all machines share, or pack with --engine local"
    for path, size in asked.seen:
        if (found := _size(Path(path))) != size:
            what = "does not see" if found is None else "sees another"
            return f"{what} {path} ({_in_bytes(found)}, here {_in_bytes(size)}); {share}"
    if asked.token:
        path, token = Path(asked.token[0]), asked.token[1]
        with contextlib.suppress(OSError):
            if path.read_text() == token:
                return None
        return f"does not see {path.parents[3]}, or not what this machine has just written there; {share}"
    return None


def _in_bytes(size: int | None) -> str:
    return "absent" if size is None else f"{size} bytes"


def _ask(client, asked: Question) -> None:
    """Raises UserError if a worker is not fit for the work, or there is none."""
    address = client.scheduler.address
    try:
        client.wait_for_workers(1, timeout=WORKERS)
    except TimeoutError as error:
        raise UserError(
            f"--scheduler {address}: has no worker after {WORKERS:.0f} s; start some (dask worker {address}), then "
            "give the same command again"
        ) from error
    for worker, wrong in sorted(_answers(client, asked).items()):
        if isinstance(wrong, OSError):
            continue  # lost in this moment
        if isinstance(wrong, Exception):  # it could not even load the question
            wrong = f"has no cxrdali, or another version ({wrong}); install {__version__} there"
        if wrong:
            raise UserError(f"Dask worker {worker} {wrong}")


def _answers(client, asked: Question) -> dict[str, object]:
    """What every worker answers. Dask would wait for one that is frozen until it takes it for lost, for minutes."""
    answers: list[dict] = []

    def ask() -> None:
        with contextlib.suppress(Exception):  # the connection is gone: told apart below by its silence
            answers.append(client.run(what_is_wrong, asked, on_error="return"))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WORKERS)
    if answers:
        return answers[0]
    silent: list[str] = []
    with contextlib.suppress(Exception):  # the scheduler may be gone by now
        workers, long_ago = client.scheduler_info()["workers"], time.time() - WORKERS / 2
        silent = sorted(address for address, known in workers.items() if known["last_seen"] < long_ago)
    who = f"Dask worker {', '.join(silent)}" if silent else f"--scheduler {client.scheduler.address}: a worker"
    raise UserError(f"{who} does not answer within {WORKERS:.0f} s; end it, then give the same command again")


# ---------------------------------------------------------------- on a worker


def make_on_worker(asked: Question, task: ShardTask, images: list) -> None:
    """`make_shard` for a worker that may be on another machine."""
    from distributed import get_worker

    worker = get_worker()
    if wrong := what_is_wrong(asked):
        raise UserError(f"Dask worker {worker.address} {wrong}")
    cv2.setNumThreads(1)  # the workers are the parallelism
    report = _Report(worker, asked.topic, task.shard)
    if task.inside is not None:  # machines may mount one folder under several real paths
        task = replace(task, inside=os.path.realpath(task.root))
    # Into a bucket it goes from the worker's own folder: the packer's is on another machine, and what a killed worker
    # leaves in its own the next one there removes.
    tmp = Path(worker.local_directory) if is_remote(task.out) else task.tmp
    try:
        write_shard(task, images, report, tmp)
    except UserError as error:  # of a store: others may reach it
        raise UserError(f"Dask worker {worker.address}: {error}") from error
    except OSError as error:
        raise UserError(f"Dask worker {worker.address}: {cannot_write(tmp, error)}") from error
    finally:
        report.send(over=True)


class _Report:
    """Takes a byte per image, as a file of marks does, and tells the packer now and then how many there are."""

    def __init__(self, worker, topic: str, shard: int):
        self._worker, self._topic, self._shard = worker, topic, shard
        self._attempt, self._images, self._sent = secrets.token_hex(8), 0, 0.0
        self.send()

    def write(self, mark: bytes) -> None:
        self._images += len(mark)
        if time.monotonic() - self._sent > LOOK:
            self.send()

    def send(self, over: bool = False) -> None:
        self._sent = time.monotonic()
        news = [self._attempt, self._shard, self._images, self._worker.address, socket.gethostname(), over]
        self._worker.log_event(self._topic, news)


# ---------------------------------------------------------------- while they work


class DaskWatch(Watch):
    """Follows what the workers report. What stalls it cannot end: `stalled` then says what to tell the user."""

    def __init__(self, client, topic: str, work: Work):
        super().__init__(work.tmp, work.images, work.stall + LOST, work.image_at)
        self._client, self._topic = client, topic
        self._attempts: dict[str, list] = {}

    def __enter__(self):
        self._client.subscribe_topic(self._topic, self._hear)
        return super().__enter__()

    def __exit__(self, kind, error, traceback) -> None:
        self._client.unsubscribe_topic(self._topic)
        super().__exit__(kind, error, traceback)

    def _hear(self, event) -> None:
        attempt, *news = event[1]
        if news[-1]:
            # others at the same shard were lost with their workers, or make what is made
            self._attempts = {name: old for name, old in self._attempts.items() if old[0] != news[0]}
        else:
            self._attempts = {**self._attempts, attempt: news}

    def _marks(self) -> dict[str, int]:
        return {attempt: news[1] for attempt, news in self._attempts.items()}

    def workers(self) -> dict[str, int] | None:
        """Threads by address; None if the scheduler does not say."""
        try:
            return dict(self._client.nthreads(callback_timeout=CONNECT))
        except Exception:  # whatever it is, `_results` will see that the scheduler is gone
            return None

    def _end(self, name: str, place: int) -> None:
        shard, _, worker, host, _ = self._attempts.get(name, [None] * 5)
        workers = self.workers()
        if self.stalled or shard is None or workers is None:
            return
        if worker not in workers:  # lost, and its shard is another's by now
            self._attempts = {other: news for other, news in self._attempts.items() if other != name}
            return
        self.stalled = (
            f"{self._image_of(shard, place)}: the Dask worker {worker} on {host} has finished no image of shard "
            f"{shard:06d} for {self._stall:.0f} s; end it if it hangs, then give the same command again; if the "
            "storage is that slow, raise --stall"
        )

    def _end_all(self) -> None:
        """Nobody is at work: of a busy cluster that may be right, of one without workers it is not."""
        if not self.stalled and self.workers() == {}:
            self.stalled = (
                f"--scheduler {self._client.scheduler.address}: has no worker left; start some, then give the same "
                "command again, which makes only the missing shards"
            )


def _results(client, asked: Question, tasks: Tasks, watch: DaskWatch, work: Work) -> Iterator[int]:
    """Shards as they are finished.

    Not through joblib's backend for Dask: it waits forever for a worker that stalls and for a scheduler that is gone,
    hands out no more than the first workers can do, and of a cluster of one thread makes the shards in this process.
    """
    from distributed import wait

    tasks, pending, shards, ahead = iter(tasks), set(), {}, QUEUED
    while True:
        for task, images in itertools.islice(tasks, max(0, ahead - len(pending))):
            task = replace(task, root=work.root, out=work.out, tmp=work.tmp)
            future = client.submit(make_on_worker, asked, task, images, pure=False)
            pending.add(future)
            shards[future.key] = task.shard
        if not pending:
            return
        try:
            finished, pending = wait(pending, timeout=LOOK, return_when="FIRST_COMPLETED")
        except TimeoutError:
            finished = ()
        except CancelledError:
            raise _gone(client, work) from None
        if watch.stalled:
            raise UserError(watch.stalled)
        if client.status != "running" or any(future.status in ("cancelled", "lost") for future in finished):
            raise _gone(client, work)
        for future in finished:
            if future.status == "error":
                raise _explained(future.exception(), work)
            yield shards.pop(future.key)  # the future's own result is on the worker, which may hang by now
        if (workers := watch.workers()) is None:
            raise _gone(client, work)
        ahead = max(QUEUED, 2 * sum(workers.values()))


def _gone(client, work: Work) -> UserError:
    return UserError(
        f"{work.out}: the Dask scheduler {client.scheduler.address} is gone, or frozen; start it and its workers, then "
        "give the same command again, which makes only the missing shards"
    )


def _explained(error: Exception, work: Work) -> Exception:
    from distributed import KilledWorker

    if not isinstance(error, KilledWorker):
        return error
    return UserError(
        f"{work.out}: Dask gave up on a shard, as each worker that had it was killed (by the kernel or by Dask, if "
        "memory ran out); give the same command again, with fewer workers on a machine if that was it"
    )
