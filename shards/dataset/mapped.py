"""One size of a packed dataset: its shards, mapped into memory."""

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from shards.dataset.remote_copy import Mirror
from shards.errors import UserError

NPY_HEADER = 128  # bytes of a raw rendition before its pixels


class Alike(NamedTuple):
    """Rows of a batch, by their places in it (int64 [n]), whose renditions have the same side, raw or as JPEG."""

    pixels: int
    raw: bool
    places: np.ndarray


@dataclass(frozen=True)
class StoredSize:
    """Where the renditions of one size are: per catalog row shard (-1 if rejected), offset and length in bytes.

    paths: the shards' files by number, here or, with a mirror, where they will be; described: as in dataset.json.
    packs: of several packs (`joined`), each pack's own, and first, the number of each one's first shard. Their sides
    and kinds may differ (`kinds`): pixels is then the largest side, raw whether all are; a shard has its pack's mirror.
    """

    pixels: int
    raw: bool
    paths: dict[int, Path]
    described: dict[int, dict]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    mirror: Mirror | None = None
    packs: "tuple[StoredSize, ...]" = ()
    first: tuple[int, ...] = (0,)

    @classmethod
    def joined(cls, parts: "Sequence[StoredSize]") -> "StoredSize":
        """Those of several packs, whose rows and shards are numbered one pack after the other; of one, itself."""
        if len(parts) == 1:
            return parts[0]
        first = np.cumsum([0, *(max(part.paths, default=-1) + 1 for part in parts[:-1])]).tolist()
        both = [*zip(first, parts, strict=True)]
        return cls(
            pixels=max(part.pixels for part in parts),
            raw=all(part.raw for part in parts),
            paths={begin + number: path for begin, part in both for number, path in part.paths.items()},
            described={begin + number: entry for begin, part in both for number, entry in part.described.items()},
            shard=np.concatenate([np.where(part.shard < 0, part.shard, part.shard + begin) for begin, part in both]),
            offset=np.concatenate([part.offset for part in parts]),
            length=np.concatenate([part.length for part in parts]),
            packs=tuple(parts),
            first=tuple(first),
        )

    @property
    def parts(self) -> "tuple[StoredSize, ...]":
        """Each pack's own."""
        return self.packs or (self,)

    @property
    def kinds(self) -> list[tuple[int, bool]]:
        """The different (side in pixels, raw) of the renditions, ascending."""
        return sorted({(part.pixels, part.raw) for part in self.parts})

    @property
    def mirrors(self) -> list[Mirror]:
        """Of the packs in a bucket."""
        return [part.mirror for part in self.parts if part.mirror is not None]

    def pack_of(self, shards: np.ndarray) -> np.ndarray:
        """Which pack, from 0, shards are of: int64 [n]."""
        return np.searchsorted(self.first, shards, side="right") - 1

    def part_of(self, shard: int) -> "StoredSize":
        """The pack that a shard is of."""
        return self.parts[bisect_right(self.first, shard) - 1]

    def alike(self, rows: np.ndarray) -> list[Alike]:
        """Rows, int64 [n], by side and kind of their renditions."""
        kinds = self.kinds
        if len(kinds) == 1:
            return [Alike(*kinds[0], np.arange(len(rows)))]
        of_pack = np.array([kinds.index((part.pixels, part.raw)) for part in self.parts])
        found = of_pack[self.pack_of(self.shard[rows])]
        places = [np.flatnonzero(found == number) for number in range(len(kinds))]
        return [Alike(*kind, where) for kind, where in zip(kinds, places, strict=True) if len(where)]

    def check_room(self, shards: np.ndarray) -> None:
        """Raises UserError if what is still to be copied of shards (int [n]) does not fit on the caches' disks."""
        wanted: Counter[int] = Counter()  # bytes by disk
        for number, part in enumerate(self.parts):
            if part.mirror is not None:
                entries = [self.described[shard] for shard in shards[self.pack_of(shards) == number].tolist()]
                disk = part.mirror.folder.stat().st_dev
                wanted[disk] = part.mirror.check_room(part.pixels, entries, wanted[disk])

    def copied(self, shard: int, ended: Callable[[], bool] = lambda: False) -> bool:
        """Have a shard's file here; a mirror's is copied (`Mirror.shard`: False if `ended` says so before it is)."""
        mirror = self.part_of(shard).mirror
        return mirror is None or mirror.shard(self.described[shard], ended) is not None

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
        # and the side of its renditions in pixels
        self._side = np.array([part.pixels for part in stored.parts])[stored.pack_of(np.arange(len(self._address)))]
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
                f"{self.stored.part_of(shard).pixels} px: shard {len(self._arrays)} of {len(self.stored.paths)} cannot "
                f"be mapped ({reason}); this process may open {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} files "
                "(ulimit -n) and map vm.max_map_count: raise them, or pack with a larger --shard-images"
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
        side, end = self._side[self.stored.shard[rows]], self._ends(rows)
        images = self._between(rows, end - side**2, end)
        return [image.reshape(side, side, 1) for image, side in zip(images, side.tolist(), strict=True)]

    def addresses(self, rows: np.ndarray) -> np.ndarray:
        """Where raw rows' pixels, uint8 [S, S], begin in memory: int64 [n], valid as long as this object lives.

        Raises UserError if a stored image has another length, or would reach beyond its shard.
        """
        end = self._ends(rows)  # first: nobody has an address of a shard that it has not looked at
        shard = self.stored.shard[rows]
        return self._address[shard] + end - self._side[shard] ** 2

    def _ends(self, rows: np.ndarray) -> np.ndarray:
        """The bytes of their shards at which raw rows end, checked: whoever has an address can read anything."""
        stored, rows = self.stored, np.asarray(rows)
        self._have(stored.shard[rows])
        shard, offset, length = stored.shard[rows], stored.offset[rows], stored.length[rows]
        wanted, end = NPY_HEADER + self._side[shard] ** 2, offset + length
        wrong = (length != wanted) | (offset < 0) | (end > self._num_bytes[shard])
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            pack = int(stored.pack_of(shard[place]))
            row = rows[place] - sum(len(each.shard) for each in stored.parts[:pack])
            raise UserError(
                f"{stored.paths[int(shard[place])]}: catalog row {row} "
                f"has {length[place]:,} bytes at byte {offset[place]:,}, not {wanted[place]:,} within the shard; run "
                "`cxrdali verify`, then restore the shard or pack again"
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
