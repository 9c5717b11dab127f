"""What happens on a worker of a Dask cluster: it is asked whether it fits the work, and makes shards."""

import contextlib
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2

from shards import __version__
from shards.errors import UserError
from shards.packing.make_shard import PlannedImage, ShardTask, write_shard
from shards.storage.files import cannot_write
from shards.storage.places import storage_of
from shards.workers import DONE, LOOK


@dataclass(frozen=True)
class Question:
    """What a worker must have in common with the packer: token, the content of a file that the packer has just
    written beside the shards; seen: paths and sizes in bytes (None: absent) in the release; versions by name."""

    topic: str
    token: tuple[str, str] | None
    seen: tuple[tuple[str, int | None], ...]
    versions: dict[str, str]


def size_of(path: Path) -> int | None:
    """In bytes; of a folder 0."""
    try:
        return 0 if path.is_dir() else path.stat().st_size
    except OSError:
        return None


def versions() -> dict[str, str]:
    return {"cxrdali": __version__, "simplejpeg": version("simplejpeg"), "OpenCV": cv2.__version__}


def what_is_wrong(asked: Question) -> str | None:
    """Asked on a worker: what it has not in common with the packer, and how to fix it; None if all is well."""
    for name, wanted in asked.versions.items():
        if (found := versions()[name]) != wanted:
            return f"has {name} {found}, this machine {wanted}; install the same, as the bytes depend on it"
    share = "give --source and --out in folders that all machines share, or pack with --engine local"
    for known, num_bytes in asked.seen:
        if (there := size_of(Path(known))) != num_bytes:
            what = "does not see" if there is None else "sees another"
            return f"{what} {known} ({_in_bytes(there)}, here {_in_bytes(num_bytes)}); {share}"
    if asked.token:
        path, token = Path(asked.token[0]), asked.token[1]
        with contextlib.suppress(OSError):
            if path.read_text() == token:
                return None
        return f"does not see {path.parents[3]}, or not what this machine has just written there; {share}"
    return None


def _in_bytes(count: int | None) -> str:
    return "absent" if count is None else f"{count} bytes"


def make_on_worker(asked: Question, task: ShardTask, images: Sequence[PlannedImage]) -> None:
    """`make_shard` for a worker that may be on another machine."""
    from distributed import get_worker

    worker = get_worker()
    if wrong := what_is_wrong(asked):
        raise UserError(f"Dask worker {worker.address} {wrong}")
    report = _Report(worker, asked.topic, task.shard)
    if task.inside is not None:  # machines may mount one folder under several real paths
        task = replace(task, inside=storage_of(task.root).real_path())
    # Into a bucket it goes from the worker's own folder: the packer's is on another machine, and what a killed worker
    # leaves in its own the next one there removes.
    tmp = task.tmp if storage_of(task.out).local else Path(worker.local_directory)
    try:
        write_shard(task, images, report, tmp)
    except UserError as error:  # of a store: others may reach it
        raise UserError(f"Dask worker {worker.address}: {error}") from error
    except OSError as error:
        raise UserError(f"Dask worker {worker.address}: {cannot_write(tmp, error)}") from error
    finally:
        report.send(over=True)


class _Report:
    """Takes marks as their file does, and tells the packer now and then how many there are."""

    def __init__(self, worker: Any, topic: str, shard: int):
        self._worker, self._topic, self._shard = worker, topic, shard
        self._attempt, self._marks, self._sent = secrets.token_hex(8), b"", 0.0
        self.send()

    def write(self, mark: bytes) -> None:
        self._marks += mark
        if time.monotonic() - self._sent > LOOK:
            self.send()

    def send(self, over: bool = False) -> None:
        self._sent = time.monotonic()
        marks = self._marks.count(DONE), len(self._marks)
        news = [self._attempt, self._shard, *marks, self._worker.address, socket.gethostname(), over]
        self._worker.log_event(self._topic, news)
