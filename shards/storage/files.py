"""Files of this disk: published so that a kill at any moment leaves the old state or the new one, hashed and locked.

Everything is written aside in the target's folder (or a sibling on the same file system), flushed to the
medium, and renamed. The folder is flushed too: without that a power cut can forget the rename.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shards.errors import UserError


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (created, renamed, removed names) to the medium."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(aside: Path, final: Path) -> None:
    """Give a complete file its final name; `aside` must be on the same file system."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(final)
    sync_folder(final.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `path` aside and rename it; the aside name holds the process id, so two writers never share it.

    Raises UserError if there is no room or no permission; the old file then stands.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(data)
        publish(aside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def cannot_write(path: object, error: OSError) -> UserError:
    """What to say when a file or folder cannot be written."""
    fix = "give another folder, or the right to write"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fix = "make room; the same command continues"
    return UserError(f"{path}: cannot be written ({error.strerror}); {fix}")


def remove_parts(folder: Path) -> None:
    """Remove what killed writers left in a folder. Only for a folder that nobody else is writing to."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def json_bytes(value: object) -> bytes:
    """Canonical JSON (sorted keys, one trailing newline): equal values are equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(file: IO, kind: int) -> None:
    """flock. Raises BlockingIOError if it cannot be had at once (LOCK_NB), UserError on a file system without locks."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        raise UserError(
            f"{file.name}: cannot be locked ({error.strerror}); give a folder on a file system with locks (flock), "
            "best on a disk of this machine"
        ) from error


@contextlib.contextmanager
def only_one(place: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Hold the lock at `place` while working; raises UserError at once if another process holds it. Those that hold it
    `shared` exclude only those that do not.

    `what` completes "another process is ...". The kernel drops the lock of a dead process, so none is ever stale.
    """
    while True:
        with place.open("a+") as file:  # NFS wants it readable for a shared lock, writable for an exclusive one
            try:
                lock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{place.parent}: another process is {what}; wait for it or stop it") from None
            # A packer removes its lock when it has finished: then this one is nobody's, and a third process
            # would hold another of the same name.
            if is_named(file, place):
                yield
                return
            place.parent.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def one_by_one(place: Path) -> Iterator[None]:
    """Wait for the lock at `place`, hold it for a moment's work."""
    with place.open("a+") as file:
        lock(file, fcntl.LOCK_EX)
        yield


def is_named(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
