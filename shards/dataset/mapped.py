"""One size of a packed dataset: its shards, mapped into memory."""

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from shards.dataset.remote_copy import Mirror
from shards.errors import UserError

NPY_HEADER = 128  # bytes of a raw rendition before its pixels


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

    def copied(self, shard: int, ended: Callable[[], bool] = lambda: False) -> bool:
        """Have a shard's file here; a mirror's is copied (`Mirror.shard`: False if `ended` says so before it is)."""
        return self.mirror is None or self.mirror.shard(self.described[shard], ended) is not None

    def open(self, shard: int) -> BinaryIO:
        """A shard's file; a mirror's is copied first."""
        self.copied(shard)
        return self.paths[shard].open("rb")


class MappedSize:
    """The stored bytes of one size as memory-mapped slices: no copy, pages come from the kernel's cache.

    A shard is mapped when a row of it is first asked for, and stays so: whoever reads few shards opens few. Of a
    dataset in a bucket it must have been fetched before (`fetch`).
    """

    def __init__(self, stored: StoredSize):
        self.stored = stored
        self._arrays: dict[int, np.ndarray] = {}
        # int64 [shards] by number: where each begins in this process's memory, and how long it is; 0 if not mapped
        self._address, self._num_bytes = np.zeros((2, max(stored.paths, default=-1) + 1), dtype=np.int64)
        self._lock = threading.Lock()

    @property
    def mapped(self) -> list[int]:
        """The shards that are mapped, in the order in which they were."""
        return list(self._arrays)

    def is_mapped(self, shard: int) -> bool:
        return shard in self._arrays

    def fetch(self, shard: int, ended: Callable[[], bool] = lambda: False) -> bool:
        """Have a shard mapped, which of a dataset in a bucket is copied first. Several threads may call it.

        False if `ended` said so before it was there. Raises UserError if it cannot be copied or mapped.
        """
        if not self.stored.copied(shard, ended):
            return False
        with self._lock:
            if shard not in self._arrays:
                array = self._map(shard)
                self._address[shard], self._num_bytes[shard] = array.ctypes.data, array.nbytes
                self._arrays[shard] = array  # last: who sees it asks for no lock
        return True

    def _map(self, shard: int) -> np.ndarray:
        """A plain ndarray, uint8 [bytes]: slicing an np.memmap costs several times as much.

        By arrow, whose mapping lasts as long as the array and keeps no file open, as Python's would: of those, a
        process may have 1,024.
        """
        path, wanted = self.stored.paths[shard], self.stored.described[shard]["bytes"]
        try:
            with pa.memory_map(str(path)) as file:
                array = np.frombuffer(file.read_buffer(), dtype=np.uint8)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise UserError(f"{path}: cannot be read ({reason}); check the disk and copy it again") from error
            raise UserError(
                f"{self.stored.pixels} px: shard {len(self._arrays)} of {len(self.stored.paths)} cannot be mapped "
                f"({reason}); this process may open {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} files (ulimit "
                "-n) and map vm.max_map_count: raise them, or pack with a larger --shard-images"
            ) from error
        if array.nbytes != wanted:  # first mapped long after the dataset was opened, perhaps
            raise UserError(f"{path}: has {array.nbytes} bytes, dataset.json says {wanted}; copy it again")
        return array

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
        self._have(stored.shard[rows])
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
        self._have(self.stored.shard[rows])
        shards = self.stored.shard[rows].tolist()
        places = zip(shards, begin.tolist(), end.tolist(), strict=True)
        return [self._arrays[shard][first:last] for shard, first, last in places]

    def _have(self, shards: np.ndarray) -> None:
        """Map those of these shards, int [n], that are not yet."""
        for shard in np.unique(shards[self._num_bytes[shards] == 0]).tolist():
            self.fetch(shard)

    def forget(self, shard: int) -> None:
        """Give a shard's pages back to the kernel and its page cache; what is read again comes from the disk again."""
        if (array := self._arrays.get(shard)) is not None:  # first: a page that a process has mapped stays in the cache
            address, length = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            ctypes.CDLL(None).madvise(address, length, mmap.MADV_DONTNEED)
        with contextlib.suppress(FileNotFoundError), self.stored.paths[shard].open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
