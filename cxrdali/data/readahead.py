"""The shards of an epoch, read into the kernel's page cache before a batch asks for their images.

The images of a window come in random order, and a mapped page that is not in memory costs a small read and a seek. So
a thread reads the window in use and the next one, file by file in large pieces, and a batch waits until its window is
there. madvise and posix_fadvise (WILLNEED) were tried and rejected: the kernel cuts every call to the device's own
read-ahead, often 128 KiB of a shard, and does not say when it is done.

The pages are the kernel's, which may drop them: two windows should fit in memory beside the process. Where the shards
of the epoch do not all fit, a window that was used is given back: left alone, the kernel keeps the pages that were
read twice, by this thread and by the decoder, and drops those still to be decoded. The thread holds one piece. It ends
with the epoch, or with `close`.
"""

import os
import threading
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from cxrdali.data.options import LAG
from cxrdali.data.order import Windows
from cxrdali.runtime.limits import memory_available
from shards.dataset.mapped import MappedSize
from shards.errors import UserError

PIECE = 2**20  # bytes per read
GAP = 2**18  # bytes between two images up to which both are read in one go: a seek costs more on any slow disk


class ReadAhead:
    """Reads the windows of an epoch's `order` (catalog rows) from position `start` on, one ahead of the one in use.

    windows: the first position of each, ascending from 0, and its shards in the order in which they are read
    (`cxrdali.data.order`); without any, nothing is read and nobody waits. ready: blocks until the files of a window
    (by number) are on this disk, for a dataset in a bucket. ranks: number of processes that share the epoch; each asks
    for its own batches only, so between two of them it moves on by `ranks` batches.
    """

    def __init__(
        self,
        mapped: MappedSize,
        order: np.ndarray,
        windows: Windows,
        start: int = 0,
        ready: Callable[[int], None] | None = None,
        ranks: int = 1,
    ):
        self._mapped, self._stored, self._ready, self._ranks = mapped, mapped.stored, ready, ranks
        self._order, self._windows, self._start = order, windows, start
        self.gives_back = bool(windows) and not self._fit()
        self._given_back = 0  # windows
        self._first = [first for first, _ in windows]
        self._there = [threading.Event() for _ in windows]
        self._wanted: SimpleQueue[int | None] = SimpleQueue()
        self._asked = self._window(start)  # windows before it are read, being read or not needed
        self._error: UserError | None = None
        self._closed = False
        if windows and start < len(order):
            # a daemon: a read that hangs on a lost network disk must not keep the process from ending
            threading.Thread(target=self._read_wanted, name="cxrdali read-ahead", daemon=True).start()
            self._ask(self._asked)

    def wait(self, start: int, stop: int) -> None:
        """Return when the images at [start, stop) are in memory. Raises UserError if a shard cannot be read."""
        if not self._windows:
            return
        last = self._window(stop - 1)
        self._ask(last + 1)
        for window in range(self._window(start), last + 1):
            self._there[window].wait()
        if self._error is not None:
            raise self._error
        if self.gives_back:
            self._give_back(start - LAG * self._ranks * (stop - start))

    def close(self) -> None:
        """Let the thread end, after the piece that it is reading."""
        self._closed = True
        self._wanted.put(None)

    def _fit(self) -> bool:
        shards = np.unique(np.concatenate([shards for _, shards in self._windows])).tolist()
        return sum(self._stored.described[shard]["bytes"] for shard in shards) < memory_available()[0]

    def _give_back(self, position: int) -> None:
        """The windows that end before this position."""
        while self._given_back + 1 < len(self._windows) and self._first[self._given_back + 1] <= position:
            for shard in self._windows[self._given_back][1].tolist():
                self._mapped.forget(shard)
            self._given_back += 1

    def _window(self, position: int) -> int:
        return bisect_right(self._first, position) - 1

    def _ask(self, last: int) -> None:
        while self._asked <= min(last, len(self._windows) - 1):
            self._wanted.put(self._asked)
            self._asked += 1

    def _read_wanted(self) -> None:
        piece = bytearray(PIECE)
        while (window := self._wanted.get()) is not None:
            if self._ready is not None:
                self._ready(window)
            try:
                self._read(window, piece)
            except UserError as error:  # for the consumer, who waits for this window or will
                self._error = self._error or error
            self._there[window].set()
            if window == len(self._windows) - 1:
                break

    def _read(self, window: int, piece: bytearray) -> None:
        stop = self._first[window + 1] if window + 1 < len(self._first) else len(self._order)
        rows = self._order[max(self._first[window], self._start) : stop]
        shard_of_row = self._stored.shard[rows]
        for shard in self._windows[window][1].tolist():
            chosen = rows[shard_of_row == shard]
            wanted = spans(self._stored.offset[chosen], self._stored.length[chosen])
            read_spans(self._stored.paths[shard], wanted, piece, lambda: self._closed)


def read_spans(path: Path, wanted: list[tuple[int, int]], piece: bytearray, closed: Callable[[], bool]) -> None:
    """Read half-open byte ranges of a file, a piece at a time, into the same memory; stop when `closed` says so.

    Raises UserError if it is shorter or cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            for begin, end in wanted:
                while begin < end and not closed():
                    room = memoryview(piece)[: end - begin]
                    count = os.preadv(file.fileno(), [room], begin)  # without the GIL
                    if not count:
                        raise UserError(f"{path}: ends at byte {begin}, it was cut while in use; copy it again")
                    begin += count
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the disk and copy it again") from error


def spans(offset: np.ndarray, length: np.ndarray) -> list[tuple[int, int]]:
    """The half-open byte ranges to read for images of one file: int64 [n] each, in any order, repeats allowed.

    Ascending and disjoint; gaps of at most GAP bytes are read along.
    """
    if not len(offset):
        return []
    place = np.argsort(offset, kind="stable")
    begin, end = offset[place], offset[place] + length[place]
    breaks = np.flatnonzero(begin[1:] - end[:-1] > GAP) + 1
    return list(zip(begin[np.r_[0, breaks]].tolist(), end[np.r_[breaks - 1, len(end) - 1]].tolist(), strict=True))
