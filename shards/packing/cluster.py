"""Shards made by the workers of a Dask cluster.

Dask decides which worker makes which shard, and gives the shards of a lost worker to others. Before any shard is made,
every worker is asked whether it sees the same files and has the same versions; one that joins later is asked with its
first shard. Workers report finished images through the scheduler, so they need no other connection to this machine.

A worker on another machine cannot be killed from here. If one finishes no image for `stall` seconds plus the time that
Dask takes to notice a lost machine, the run ends with an error. If it does finish its shard later, that shard is valid.
"""

import asyncio
import contextlib
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shards import __version__
from shards.errors import UserError
from shards.packing.cluster_worker import Question, make_on_worker, size_of, versions, what_is_wrong
from shards.packing.engine import Tasks, Work
from shards.storage.places import storage_of
from shards.workers import LOOK, Watch

log = logging.getLogger(__name__)

CONNECT = 20.0  # seconds in which the scheduler must answer
WORKERS = 30.0  # seconds in which the first worker must be there, and all that are must answer
LEAVE = 5.0  # seconds in which the scheduler must take note that this client goes
LOST = 35.0  # seconds that Dask takes to notice that a machine answers no more, and a little
QUEUED = 16  # least number of shards handed out: workers that join later find something to do at once


@dataclass(frozen=True)
class Dask:
    """Packs on the cluster of a scheduler; without one, on `jobs` local workers that are started for this run."""

    scheduler: str | None = None
    jobs: int = 1

    def make(self, tasks: Tasks, work: Work) -> None:
        if not work.spans:
            return
        # a worker starts in another folder than the packer
        work = replace(work, root=work.root.absolute(), out=work.out.absolute(), tmp=work.tmp.absolute())
        with _client(self) as client:
            asked = _question(work)
            _ask(client, asked)
            with DaskWatch(client, asked.topic, work) as watch:
                for shard in _results(client, asked, tasks, watch, work):
                    watch.finished(work.images_of(shard))


@contextlib.contextmanager
def _client(engine: Dask) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("--engine dask: Dask is not installed; pip install 'cxrdali[dask]'") from error
    with contextlib.ExitStack() as stack:
        for name in ("distributed", "distributed.client"):  # what matters is said in one line of our own
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        if engine.scheduler is None:
            cluster = stack.enter_context(_own_cluster(engine.jobs))
            client = Client(cluster, timeout=CONNECT, set_as_default=False)
        else:
            if not engine.scheduler.startswith("tls://"):
                log.info(
                    f"--scheduler {engine.scheduler}: whoever reaches it runs code as you; use it in a closed network, "
                    "or over TLS, with a tls:// address (docs/machines.md)"
                )
            _knock(engine.scheduler)
            client = Client(engine.scheduler, timeout=CONNECT, set_as_default=False)
        stack.callback(_close, client)
        stack.enter_context(client.as_current())
        yield client


def _own_cluster(jobs: int) -> Any:
    from shards.packing.own_cluster import own_cluster

    try:
        return own_cluster(jobs)
    except ImportError as error:
        raise UserError(f"--engine dask: {error}; pip install 'cxrdali[dask]'") from error


def _close(client: Any) -> None:
    with contextlib.suppress(Exception):  # a scheduler that is frozen takes no leave; what ended the run is said
        client.close(timeout=LEAVE)


def _knock(address: str) -> None:
    """Raises UserError if no scheduler answers. Dask's client would wait forever for a port that only listens."""
    from distributed.core import rpc
    from distributed.security import Security

    async def identity() -> dict:
        async with rpc(address, connection_args=Security().get_connection_args("client")) as scheduler:
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


def _question(work: Work) -> Question:
    topic, token = f"cxrdali-{secrets.token_hex(8)}", None
    seen: tuple[tuple[str, int | None], ...] = ()
    if storage_of(work.out).local:
        path = work.tmp / "token"
        path.write_text(topic)
        token = (str(path), topic)
    if storage_of(work.root).local:
        first = min(start for start, _ in work.spans.values())
        paths = (str(work.root / work.plan.path(row)) for row in range(first, min(first + 3, len(work.plan))))
        seen = ((str(work.root), 0), *((path, size_of(Path(path))) for path in paths))
    return Question(topic, token, seen, versions())


def _ask(client: Any, asked: Question) -> None:
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


def _answers(client: Any, asked: Question) -> dict[str, object]:
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


class DaskWatch(Watch):
    """Watches what the workers report. It cannot end a worker that hangs; `stalled` holds the message for the user."""

    def __init__(self, client: Any, topic: str, work: Work):
        super().__init__(work.tmp, work.images, work.stall + LOST, work.image_at)
        self._client, self._topic = client, topic
        self._attempts: dict[str, list] = {}

    def __enter__(self) -> "DaskWatch":
        self._client.subscribe_topic(self._topic, self._hear)  # until the client is closed
        super().__enter__()
        return self

    def _hear(self, event: tuple) -> None:
        attempt, *news = event[1]
        if news[-1]:
            # others at the same shard were lost with their workers, or make what is made
            self._attempts = {name: old for name, old in self._attempts.items() if old[0] != news[0]}
        else:
            self._attempts = {**self._attempts, attempt: news}

    def _marks(self) -> dict[str, tuple[int, int]]:
        return {attempt: (news[1], news[2]) for attempt, news in self._attempts.items()}

    def workers(self) -> dict[str, int] | None:
        """Threads by address; None if the scheduler does not say."""
        try:
            return dict(self._client.nthreads(callback_timeout=CONNECT))
        except Exception:  # whatever it is, `_results` will see that the scheduler is gone
            return None

    def _end(self, name: str, place: int) -> None:
        shard, _, _, worker, host, _ = self._attempts.get(name, [None] * 6)
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


def _results(client: Any, asked: Question, tasks: Tasks, watch: DaskWatch, work: Work) -> Iterator[int]:
    """Shards as they are finished.

    Not through joblib's backend for Dask: it waits forever for a worker that stalls and for a scheduler that is gone,
    hands out no more than the first workers can do, and of a cluster of one thread makes the shards in this process.
    """
    from distributed import wait

    tasks, ahead = iter(tasks), QUEUED
    pending: set[Any] = set()
    shards: dict[str, int] = {}
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


def _gone(client: Any, work: Work) -> UserError:
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
