"""A folder of copies of what lies in a bucket, shared by the processes of one machine.

    CACHE/ID/                             the dataset with this id, laid out as in the bucket
    (`shards.dataset.remote_copy`)
    CACHE/ID/.source                      the address that it was first copied from
    CACHE/ID/224/000003.tar               a copy: whole and right, or it would not have this name
    CACHE/ID/224/.000003.tar.BYTES.part   a copy on its way, of so many bytes when it is whole

A `.part` file is locked (flock) by the process that fills it. The kernel releases the lock of a process that died, so
another one can continue its part. Copies are never deleted here: all sizes of the largest release are tens of GB.
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from shards.dataset.description import DATASET
from shards.errors import UserError
from shards.storage.files import cannot_write, check_inside, is_named, lock, open_own, write_bytes
from shards.storage.places import storage_of

MARK = ".source"


def default_folder() -> Path:
    """$CXRDALI_CACHE, else ~/.cache/cxrdali."""
    return Path(os.environ.get("CXRDALI_CACHE") or Path.home() / ".cache" / "cxrdali")


@dataclass(frozen=True)
class Cache:
    """folder: where copies are kept, on this machine."""

    folder: Path = field(default_factory=default_folder)

    def __post_init__(self):
        if not storage_of(self.folder).local:
            raise UserError(f"{self.folder}: a cache is a folder on this machine")

    def dataset(self, identity: str, source: str, description: bytes) -> Path:
        """The folder of a dataset's copies, made if need be, with its dataset.json as it is now."""
        folder = self.folder / identity
        try:
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
            folder.mkdir(exist_ok=True)
            check_inside(self.folder, folder)
            with contextlib.suppress(FileExistsError), (folder / MARK).open("x") as file:
                file.write(f"{source}\n")
            path = folder / DATASET
            if not path.is_file() or path.read_bytes() != description:  # the labels may have been others
                write_bytes(path, description)
        except OSError as error:
            raise cannot_write(folder, error) from error
        return folder

    def datasets(self, source: str) -> list[Path]:
        """Folders of copies that came from an address, the latest last."""
        found = [
            mark.parent for mark in self.folder.glob(f"*/{MARK}") if mark.read_text(errors="replace") == f"{source}\n"
        ]
        return sorted(found, key=lambda folder: (folder / MARK).stat().st_mtime)


def claim(final: Path, num_bytes: int) -> IO[bytes] | None:
    """The part of a copy of `num_bytes`, open and locked, for the caller to fill; it may hold the beginning.

    None if another process or thread fills it or has just finished. Raises UserError on a file system without locks.
    """
    if final.exists():
        return None
    path = part_of(final, num_bytes)
    file = open_own(path, "r+b", os.O_CREAT)
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if is_named(file, path):
            if not final.exists() and os.fstat(file.fileno()).st_nlink == 1:
                stack.pop_all()
                return file
            # another process had given the part its name before this one made it anew; or it is another file's too
            path.unlink()
    return None


def copied(final: Path, num_bytes: int) -> int | None:
    """Bytes of a copy on its way; None if there is none."""
    try:
        return part_of(final, num_bytes).stat().st_size
    except FileNotFoundError:
        return None


def part_of(final: Path, num_bytes: int) -> Path:
    """Where a copy of `num_bytes` is until it is whole."""
    return final.with_name(f".{final.name}.{num_bytes}.part")
