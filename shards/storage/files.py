"""Files of this disk: published so that a kill at any moment leaves the old state or the new one, hashed and locked.

Everything is written aside in the target's folder (or a sibling on the same file system), flushed to the
medium, and renamed. The folder is flushed too: without that a power cut can forget the rename.

A file aside is `.NAME.RANDOM.part`: new, no link, and locked (flock) while its writer lives. So one that can be locked
was left by a killed writer, and the next writer of NAME removes it.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from shards.errors import UserError

LONGEST_NAME = 255  # bytes, on every usual file system
_RANDOM = "[0-9a-f]{16}"
_PART = re.compile(rf"\..+\.({_RANDOM}|[0-9]+)\.part", re.DOTALL)  # [0-9]+: a process id, as earlier versions had it


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (created, renamed, removed names) to the medium."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(aside: Path, final: Path) -> None:
    """Give a complete file its final name; `aside` must be on the same file system."""
    with open_regular(aside) as file:
        os.fsync(file.fileno())
    aside.replace(final)
    sync_folder(final.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `path` aside and rename it; what killed writers of it left is removed first.

    Raises UserError if there is no room or no permission; the old file then stands.
    """
    try:
        stem = _stem(path.name)
        _remove_abandoned(path.parent, re.compile(rf"\.{re.escape(stem)}\.{_RANDOM}\.part"))
        with _new_part(path.parent, stem) as file:
            try:
                file.write(data)
                file.flush()
                publish(Path(file.name), path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(file.name).unlink()
                raise
    except OSError as error:
        raise cannot_write(path, error) from error


def _stem(name: str) -> str:
    """A file's name, or its hash if the name aside would be too long."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= LONGEST_NAME - len("..0123456789abcdef.part") else sha256_bytes(encoded)


def _new_part(folder: Path, stem: str) -> IO[bytes]:
    """A new file aside, locked."""
    while True:
        file = open_own(folder / f".{stem}.{secrets.token_hex(8)}.part", "xb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another writer takes it for one that was left, and removes it
            file.close()
            continue
        except OSError:  # a file system without locks: nobody can take it for that
            return file
        if is_named(file, Path(file.name)):
            return file
        file.close()


def _remove_abandoned(folder: Path, names: re.Pattern) -> None:
    """Remove the files with these names that nobody has locked."""
    with os.scandir(folder) as found:
        parts = [Path(e.path) for e in found if names.fullmatch(e.name)]
    for part in parts:
        # a link, not ours, gone, being written, or on a file system without locks
        with contextlib.suppress(OSError, UserError), open_own(part, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def open_own(path: Path, mode: str, flags: int = 0) -> IO[Any]:
    """Open a file to write to it. Raises UserError if it is a link: what it leads to may be anybody's."""

    def opener(name: str, usual: int) -> int:
        return os.open(name, usual | flags | os.O_NOFOLLOW, 0o666)

    try:
        return open(path, mode, opener=opener)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise linked(path) from error


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read it. Raises OSError if it is a pipe or a device, whose reading may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "no regular file", str(path))


def read_regular(path: Path, most: int) -> bytes:
    """A file's bytes. Raises OSError as `open_regular`, ValueError if it is larger than `most` bytes."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise ValueError(f"it has {size:,} bytes; at most {most:,} are read")
        return file.read(most)


def check_inside(root: Path, *paths: Path) -> None:
    """Raises UserError if one of `paths`, or a folder between `root` and it, is a link.

    To be asked before anything in a folder is written or removed by a name that the folder's maker chose.
    """
    for path in paths:
        for place in (path, *path.parents[: len(path.parts) - len(root.parts) - 1]):
            if place.is_symlink():
                raise linked(place)


def linked(path: Path) -> UserError:
    return UserError(
        f"{path}: is a link, and nothing is written or removed where a link leads; replace it by what it leads to"
    )


def cannot_write(path: object, error: OSError) -> UserError:
    """What to say when a file or folder cannot be written."""
    fix = "give another folder, or the right to write"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fix = "make room; the same command continues"
    elif error.errno == errno.ENAMETOOLONG:
        fix = "give a shorter name"
    return UserError(f"{path}: cannot be written ({error.strerror}); {fix}")


def remove_parts(folder: Path) -> None:
    """Remove what killed writers left in a folder, whatever they wrote."""
    if folder.is_dir():
        _remove_abandoned(folder, _PART)


def sync_tree(folder: Path) -> None:
    """Flush a folder and all in it to the medium."""
    for inner, _, names in os.walk(folder):
        for name in names:
            with (Path(inner) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(inner))


def json_bytes(value: object) -> bytes:
    """Canonical JSON (sorted keys, one trailing newline): equal values are equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with open_regular(path) as file:
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
        # NFS wants it readable for a shared lock, writable for an exclusive one
        with open_own(place, "r+b", os.O_CREAT) as file:
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
    with open_own(place, "r+b", os.O_CREAT) as file:
        lock(file, fcntl.LOCK_EX)
        yield


def is_named(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
