"""A folder of copies of what lies in a bucket: shared by processes of one machine, bounded if asked for.

    CACHE/ID/                             the dataset with this id, laid out as in the bucket
    (`shards.dataset.remote_copy`)
    CACHE/ID/.source                      the address that it was first copied from; marks the folder as one of ours
    CACHE/ID/224/000003.tar               a copy: whole and right, or it would not have this name
    CACHE/ID/224/.000003.tar.BYTES.part   a copy on its way, of so many bytes when it is whole
    CACHE/.lock                           held while room is made

A copy that is in use is locked (flock, shared) by whoever has it open or mapped; a part by whoever fills it; and what
is locked is not removed. The kernel drops the locks of a process that died, so its part is the next one's to continue.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from shards.dataset.description import DATASET
from shards.errors import UserError
from shards.storage.files import cannot_write, is_named, lock, one_by_one, write_bytes
from shards.storage.places import storage_of

MARK = ".source"


class Full(Exception):
    """There is no room for a copy while others are in use."""


def default_folder() -> Path:
    """$CXRDALI_CACHE, else ~/.cache/cxrdali."""
    return Path(os.environ.get("CXRDALI_CACHE") or Path.home() / ".cache" / "cxrdali")


@dataclass(frozen=True)
class Cache:
    """folder: where copies are kept; limit: the most bytes that shards may take in it (None: no bound)."""

    folder: Path = field(default_factory=default_folder)
    limit: int | None = None

    def __post_init__(self):
        if not storage_of(self.folder).local:
            raise UserError(f"{self.folder}: a cache is a folder on this machine")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"cache size {self.limit} bytes: at least 1; leave it out for no bound")

    def dataset(self, identity: str, source: str, description: bytes) -> Path:
        """The folder of a dataset's copies, made if need be, with its dataset.json as it is now."""
        folder = self.folder / identity
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), (folder / MARK).open("x") as file:
                file.write(f"{source}\n")
            with self._alone():
                self._make_room(0)  # the bound may have been another one yesterday
                path = folder / DATASET
                if not path.exists() or path.read_bytes() != description:  # the labels may have been others
                    write_bytes(path, description)
        except OSError as error:
            raise cannot_write(folder, error) from error
        return folder

    def datasets(self, source: str) -> list[Path]:
        """Folders of copies that came from an address, the latest last."""
        found = [mark.parent for mark in self.folder.glob(f"*/{MARK}") if mark.read_text() == f"{source}\n"]
        return sorted(found, key=lambda folder: (folder / MARK).stat().st_mtime)

    def claim(self, final: Path, size: int) -> BinaryIO | None:
        """The part of a copy of `size` bytes, open and locked, for the caller to fill; it may hold the beginning.

        None if another process fills it or has just finished. Raises Full if there is no room.
        """
        part = _part(final, size)
        with self._alone():
            if final.exists():
                return None
            if not part.exists() and not self._make_room(size):
                raise Full
            part.touch()
            try:
                file = part.open("r+b")
            except FileNotFoundError:  # another process has just given it its name
                return None
            if locked(file, fcntl.LOCK_EX) and is_named(file, part):
                if not final.exists():
                    return file
                part.unlink()  # another process had given the part its name before this one made it anew
            file.close()
            return None

    def reached(self, final: Path, size: int) -> int | None:
        """Bytes of a copy on its way; None if there is none."""
        try:
            return _part(final, size).stat().st_size
        except FileNotFoundError:
            return None

    def _make_room(self, size: int) -> bool:
        """Remove copies that nobody uses, the least recently used first, until there is room for `size` bytes."""
        if self.limit is None:
            return True
        copies = sorted(self._copies())
        total = sum(taken for _, taken, _ in copies)
        for _, taken, path in copies:
            if total + size <= self.limit:
                break
            if _removed(path):
                total -= taken
        return total + size <= self.limit

    def _copies(self) -> Iterator[tuple[float, int, Path]]:
        """(last used, bytes, path) of every shard and of every part, which counts as whole. Nothing but copies: the
        folder may hold other things, even datasets that are nowhere else.

        A part may become a copy at any moment. It must not be missed under both names, or there would seem to be room:
        parts are listed first, and looked for under the other name when they are gone.
        """
        for mark in self.folder.glob(f"*/{MARK}"):
            parts = {_final(part): part for part in mark.parent.glob("[0-9]*/.*.tar.*.part")}
            for final in parts.keys() | set(mark.parent.glob("[0-9]*/*.tar")):
                if found := _entry(parts.get(final, final)) or _entry(final):
                    yield found

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return one_by_one(self.folder / ".lock")


def _part(final: Path, size: int) -> Path:
    return final.with_name(f".{final.name}.{size}.part")


def _final(part: Path) -> Path:
    return part.with_name(part.name.rsplit(".", 2)[0][1:])


def _entry(path: Path) -> tuple[float, int, Path] | None:
    """(last used, bytes, path) of a copy or, whole, of a part; None if it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    taken = int(path.name.rsplit(".", 2)[1]) if path.suffix == ".part" else found.st_size
    return found.st_mtime, taken, path


def in_use(path: Path) -> BinaryIO | None:
    """A copy, open and locked against removal while it or a mapping of it is open; None if there is none (yet)."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    if locked(file, fcntl.LOCK_SH) and is_named(file, path):
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(file.fileno())  # what was used last is removed last
        return file
    file.close()
    return None


def locked(file: BinaryIO, kind: int) -> bool:
    """Whether the lock could be had at once. Raises UserError on a file system without locks."""
    try:
        lock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _removed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if not locked(file, fcntl.LOCK_EX):
                return False
            path.unlink()
            return True
    except FileNotFoundError:
        return False
