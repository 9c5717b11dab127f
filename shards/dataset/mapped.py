"""One size of a packed dataset: its shards, mapped into memory."""

import contextlib
import errno
import mmap
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shards.dataset.remote_copy import Mirror
from shards.errors import UserError

NPY_HEADER = 128  # bytes of a raw rendition before its pixels
SPARE_FILES = 256  # open ones beside the mapped shards: DALI's, logs, pipes of workers


@dataclass(frozen=True)
class StoredSize:
    """Where the renditions of one size are: per catalog row shard (-1 if rejected), offset and length in bytes.

    paths: the shards' files by number, here or, with a mirror, where they will be; described: as in dataset.json.
    """

    pixels: int
    raw: bool
    paths: dict[int, Path]
    described: dict[int, dict]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    mirror: Mirror | None = None

    def open(self, shard: int, ended: Callable[[], bool] = lambda: False) -> BinaryIO | None:
        """A shard's file; a mirror's is copied first (`Mirror.shard`: None if `ended` says so before it is there)."""
        if self.mirror is not None and self.mirror.shard(self.described[shard], ended) is None:
            return None
        return self.paths[shard].open("rb")


def _allow_open_files(more: int) -> None:
    """Raise this process's own limit of open files where `more` would pass it, as far as the system lets it.

    A mapped shard is an open file. 1,024 are usual, and a size of 4 million images has a thousand shards.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(list(Path("/proc/self/fd").iterdir())) + more + SPARE_FILES
    if soft != resource.RLIM_INFINITY and needed > soft:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))


class MappedSize:
    """The stored bytes of one size as memory-mapped slices: no copy, pages come from the kernel's cache.

    Of a dataset in a bucket, rows can be read only of shards that were fetched (`fetch`).
    """

    def __init__(self, stored: StoredSize):
        self.stored = stored
        self._maps: dict[int, mmap.mmap] = {}
        self._arrays: dict[int, np.ndarray] = {}
        # int64 [shards] by number: where each begins in this process's memory, and how long it is; 0 if not mapped
        self._address, self._num_bytes = np.zeros((2, max(stored.paths, default=-1) + 1), dtype=np.int64)
        _allow_open_files(len(stored.paths))
        if stored.mirror is None:
            for number in stored.paths:
                self.fetch(number)

    def is_mapped(self, shard: int) -> bool:
        return shard in self._arrays

    def fetch(self, shard: int, ended: Callable[[], bool] = lambda: False) -> bool:
        """Have a shard mapped, which of a dataset in a bucket is copied first. Several threads may call it.

        False if `ended` said so before it was there. Raises UserError if it cannot be copied or mapped.
        """
        try:
            file = self.stored.open(shard, ended)
            if file is None:
                return False
            with file:
                # the first one stays, whoever fetches it again: its addresses may be in use
                self._maps.setdefault(shard, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            raise UserError(
                f"{self.stored.pixels} px: shard {len(self._maps)} of {len(self.stored.paths)} cannot be mapped "
                f"({error.strerror}); this process may open {resource.getrlimit(resource.RLIMIT_NOFILE)[1]:,} files "
                "(ulimit -Hn) and map vm.max_map_count: raise them, or pack with a larger --shard-images"
            ) from error
        # a plain ndarray: slicing an np.memmap costs several times as much
        self._arrays[shard] = array = np.frombuffer(self._maps[shard], dtype=np.uint8)
        self._address[shard], self._num_bytes[shard] = array.ctypes.data, array.nbytes
        return True

    def __getitem__(self, row: int) -> np.ndarray:
        """The bytes of one row's KEY.jpg or KEY.npy: uint8 [length], a read-only view."""
        return self.slices(np.array([row]))[0]

    def slices(self, rows: np.ndarray) -> list[np.ndarray]:
        """The bytes of each row's KEY.jpg or KEY.npy: uint8 [length] each, read-only views. rows: int64 [n]."""
        begin = self.stored.offset[rows]
        return self._between(rows, begin, begin + self.stored.length[rows])

    def pixels(self, rows: np.ndarray) -> list[np.ndarray]:
        """Raw rows' images: uint8 [S, S, 1] each, read-only views. Raises UserError as `addresses` does."""
        side, end = self.stored.pixels, self._ends(rows)
        return [image.reshape(side, side, 1) for image in self._between(rows, end - side * side, end)]

    def addresses(self, rows: np.ndarray) -> np.ndarray:
        """Where raw rows' pixels, uint8 [S, S], begin in memory: int64 [n], valid as long as this object lives.

        Raises UserError if a stored image has another length, or would reach beyond its shard.
        """
        end = self._ends(rows)  # first: nobody has an address of a shard that it has not looked at
        return self._address[self.stored.shard[rows]] + end - self.stored.pixels**2

    def _ends(self, rows: np.ndarray) -> np.ndarray:
        """The bytes of their shards at which raw rows end, checked: whoever has an address can read anything."""
        stored, rows = self.stored, np.asarray(rows)
        shard, offset, length = stored.shard[rows], stored.offset[rows], stored.length[rows]
        wanted, end = NPY_HEADER + stored.pixels**2, offset + length
        wrong = (length != wanted) | (offset < 0) | (end > self._num_bytes[shard])
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{stored.paths[int(shard[place])]}: catalog row {rows[place]} has {length[place]:,} bytes at byte "
                f"{offset[place]:,}, not {wanted:,} within the shard; run `cxrdali verify`, then restore the shard or "
                "pack again"
            )
        return end

    def _between(self, rows: np.ndarray, begin: np.ndarray, end: np.ndarray) -> list[np.ndarray]:
        # A batch's places become Python's integers here, which slice fastest; those of all rows would take 150 bytes
        # of memory and half a microsecond a row.
        places = zip(self.stored.shard[rows].tolist(), begin.tolist(), end.tolist(), strict=True)
        return [self._arrays[shard][first:last] for shard, first, last in places]

    def forget(self, shard: int) -> None:
        """Give a shard's pages back to the kernel and its page cache; what is read again comes from the disk again."""
        if shard in self._maps:
            self._maps[shard].madvise(mmap.MADV_DONTNEED)  # first: a page that a process has mapped stays in the cache
        with contextlib.suppress(FileNotFoundError), self.stored.paths[shard].open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
