"""The shards of an epoch of a dataset in a bucket, copied to this disk before a batch asks for their images.

With windows (`cxrdali.data.order`), the window in use is here and the next ones are on their way. Without, a batch
may want
any image of the epoch, so all shards are copied before the first batch. Threads copy several shards at a time, in the
order of need: a bucket is fast only in parallel. What a bounded cache must hold at a time is known beforehand, so one
that is too small is refused, and in a small one fewer windows are on their way.
"""

import threading
import time
from bisect import bisect_right
from queue import SimpleQueue

import numpy as np
from tqdm import tqdm

from shards.dataset.mapped import MappedSize, StoredSize

COPIES = 8  # shards at a time
LOOK = 0.2  # seconds between two states of the progress bar
Windows = list[tuple[int, np.ndarray]]


class CopyAhead:
    """Holds the shards of an epoch's `order` (catalog rows) from position `start` on, window by window.

    windows: as in `cxrdali.data.readahead`. reach: how many positions, the batch that is asked for included, are in
    use; ranks: how many processes use the cache, each in a place of its own.
    """

    def __init__(self, mapped: MappedSize, order: np.ndarray, windows: Windows, start: int, reach: int, ranks: int):
        self._mapped, self._reach, self._whole = mapped, reach, not windows
        self._windows = windows or whole(mapped.stored, order[start:])
        self._depth = depth(mapped.stored, self._windows, start, reach, ranks)
        self._first = [first for first, _ in self._windows]
        self._asked = self._released = self._window(start)  # windows before it are not needed
        self._left = [len(shards) for _, shards in self._windows]
        self._here = [threading.Event() for _ in self._windows]
        self._held: list[list[int]] = [[] for _ in self._windows]
        self._wanted: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._lock, self._ended = threading.Lock(), False
        self._error: Exception | None = None
        if start < len(order):
            for _ in range(COPIES):
                # daemons: a bucket that hangs must not keep the process from ending
                threading.Thread(target=self._copy_wanted, name="cxrdali copy", daemon=True).start()
            self._ask(self._asked + self._depth)

    def wait(self, start: int, stop: int) -> None:
        """Return when the shards of the images at [start, stop) are here and mapped; the mirror counts the seconds.

        Shards of which no image is within reach any more are released. Raises UserError if one cannot be copied.
        """
        self._release(stop - self._reach)
        last = self._window(stop - 1)
        self._ask(last + self._depth)
        missing = [each for each in self._here[self._window(start) : last + 1] if not each.is_set()]
        if missing:
            began = time.perf_counter()
            for each in missing:
                if self._whole:
                    self._show_until(each)
                each.wait()
            self._mapped.stored.mirror.waited += time.perf_counter() - began
        if self._error is not None:
            raise self._error

    def ready(self, window: int) -> None:
        """Return when a window that was asked for is here, or will not be: for a thread that reads ahead."""
        self._here[window].wait()

    def close(self) -> None:
        """Release every shard and let the threads end, after the piece that each is copying."""
        self._end(None)
        self._release(None)

    def _ask(self, last: int) -> None:
        while self._asked <= min(last, len(self._windows) - 1):
            for shard in self._windows[self._asked][1].tolist():
                self._wanted.put((self._asked, shard))
            self._asked += 1

    def _copy_wanted(self) -> None:
        while (wanted := self._wanted.get()) is not None and not self._ended:
            window, shard = wanted
            try:
                if self._mapped.hold(shard, lambda: self._ended):
                    self._note(window, shard)
            except Exception as error:  # for the consumer, who would wait for ever
                self._end(error)

    def _note(self, window: int, shard: int) -> None:
        with self._lock:
            if self._ended:
                self._mapped.release(shard)
                return
            self._held[window].append(shard)
            self._left[window] -= 1
            if not self._left[window]:
                self._here[window].set()

    def _end(self, error: Exception | None) -> None:
        with self._lock:
            self._error = self._error or error
            self._ended = True
        for _ in range(COPIES):
            self._wanted.put(None)
        for each in self._here:
            each.set()

    def _release(self, position: int | None) -> None:
        """The shards of the windows that end before this position; of all windows without."""
        with self._lock:
            while self._released < len(self._windows):
                end = self._released + 1
                if position is not None and (end == len(self._windows) or self._first[end] > position):
                    break
                for shard in self._held[self._released]:
                    self._mapped.release(shard)
                self._released = end

    def _window(self, position: int) -> int:
        return max(0, bisect_right(self._first, position) - 1)

    def _show_until(self, event: threading.Event) -> None:
        stored = self._mapped.stored
        total, described = sum(_bytes(stored, self._windows)), stored.described
        name = f"copying {stored.pixels} px"
        with tqdm(desc=name, total=total, unit="B", unit_scale=True, delay=1, leave=False, disable=None) as bar:
            while not event.wait(LOOK):
                bar.update(sum(described[shard]["bytes"] for shard in list(self._held[0])) - bar.n)


def whole(stored: StoredSize, rows: np.ndarray) -> Windows:
    """All shards of these rows as one window, those needed first in front."""
    shards, first = np.unique(stored.shard[rows], return_index=True)
    return [(0, shards[np.argsort(first)])]


def depth(stored: StoredSize, windows: Windows, start: int, reach: int, ranks: int = 1) -> int:
    """How many windows beyond the one in use are asked for: as many as it takes for every thread to have a shard.

    Fewer if the cache cannot hold more at a time. Raises UserError if it cannot even hold those in use.
    """
    wanted = -(-COPIES // len(windows[0][1])) if len(windows) > 1 else 0
    limit = stored.mirror.cache.limit
    rooms = ranks if len(windows) > 1 else 1  # all shards are the same for all
    for ahead in range(wanted, 0, -1):
        if limit is None or rooms * most_held(stored, windows, start, reach, ahead) <= limit:
            return ahead
    need, what, else_way = rooms * most_held(stored, windows, start, reach, 0), "that are in use at a time", ""
    if len(windows) == 1:
        what, else_way = f"({len(windows[0][1])}) that this order needs at a time", ", or train with --order windowed"
    stored.mirror.check_room(need, f"the shards of {stored.pixels} px {what}", else_way)
    return 0


def most_held(stored: StoredSize, windows: Windows, start: int, reach: int, ahead: int) -> int:
    """The most bytes that are held at a time: at a window's first batch, from what is within reach to what is ahead."""
    sums = np.concatenate([[0], np.cumsum(_bytes(stored, windows))])
    first = np.array([first for first, _ in windows])
    begun = np.searchsorted(first, start, side="right") - 1
    held_from = np.searchsorted(first, first[begun:] - reach, side="right") - 1
    held_to = np.minimum(np.arange(begun, len(windows)) + ahead + 1, len(windows))
    return int((sums[held_to] - sums[np.maximum(held_from, begun)]).max())


def _bytes(stored: StoredSize, windows: Windows) -> list[int]:
    return [sum(stored.described[shard]["bytes"] for shard in shards.tolist()) for _, shards in windows]
