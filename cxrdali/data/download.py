"""The shards of an epoch of a dataset in a bucket, copied to this disk before a batch asks for their images.

Threads copy several shards at a time, as a bucket is fast only in parallel, in the order of need. With windows
(`cxrdali.data.order`) a batch waits for its window. Without, it may want any image of the epoch, so all shards are
copied before the first batch.
"""

import threading
import time
from bisect import bisect_right
from queue import SimpleQueue

import numpy as np

from cxrdali.data.order import Windows
from shards.dataset.mapped import MappedSize
from shards.progress import progress_bar

COPIES = 8  # shards at a time
LOOK = 0.2  # seconds between two states of the progress bar


class CopyAhead:
    """Copies the shards of an epoch's `order` (catalog rows) from position `start` on, and maps them.

    windows: as in `cxrdali.data.readahead`.
    """

    def __init__(self, mapped: MappedSize, order: np.ndarray, windows: Windows, start: int):
        assert mapped.stored.mirrors, "nothing is copied of a dataset on this disk"
        self._mapped, self._mirror, self._whole = mapped, mapped.stored.mirrors[0], not windows
        if not windows:
            windows = [(0, in_order_of_need(mapped.stored.shard[order[start:]]))]
        self._first = [first for first, _ in windows]
        self._left = [0] * len(windows)  # shards that are still to come
        self._here = [threading.Event() for _ in windows]
        self._bytes_left, self._ended = 0, False
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._wanted: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        for window in range(self._window(start), len(windows)):
            missing = [shard for shard in windows[window][1].tolist() if self._to_copy(shard)]
            self._left[window] = len(missing)
            for shard in missing:
                self._bytes_left += self._num_bytes(shard)
                self._wanted.put((window, shard))
            if not missing:
                self._here[window].set()
        for _ in range(min(COPIES, sum(self._left))):
            self._wanted.put(None)
            # daemons: a bucket that hangs must not keep the process from ending
            threading.Thread(target=self._copy_wanted, name="cxrdali copy", daemon=True).start()

    def wait(self, start: int, stop: int) -> None:
        """Return when the shards of the images at [start, stop) are here and mapped; a mirror counts the seconds.

        Raises UserError if one cannot be copied.
        """
        missing = [each for each in self._here[self._window(start) : self._window(stop - 1) + 1] if not each.is_set()]
        if missing:
            began = time.perf_counter()
            for each in missing:
                if self._whole:
                    self._show_until(each)
                each.wait()
            self._mirror.waited += time.perf_counter() - began
        if self._error is not None:
            raise self._error

    def ready(self, window: int) -> None:
        """Return when a window is here, or will not be: for a thread that reads ahead."""
        self._here[window].wait()

    def close(self) -> None:
        """Let the threads end, after the piece that each is copying."""
        self._end(None)

    def _copy_wanted(self) -> None:
        while (wanted := self._wanted.get()) is not None and not self._ended:
            window, shard = wanted
            try:
                if not self._mapped.fetch(shard, lambda: self._ended):
                    return
            except Exception as error:  # for the consumer, who would wait for ever
                self._end(error)
                return
            with self._lock:
                self._bytes_left -= self._num_bytes(shard)
                self._left[window] -= 1
                if not self._left[window]:
                    self._here[window].set()

    def _end(self, error: Exception | None) -> None:
        with self._lock:
            self._error = self._error or error
            self._ended = True
        for each in self._here:
            each.set()

    def _window(self, position: int) -> int:
        return max(0, bisect_right(self._first, position) - 1)

    def _to_copy(self, shard: int) -> bool:
        return not self._mapped.is_mapped(shard) and self._mapped.stored.part_of(shard).mirror is not None

    def _num_bytes(self, shard: int) -> int:
        return self._mapped.stored.described[shard]["bytes"]

    def _show_until(self, event: threading.Event) -> None:
        name, total = f"copying {self._mapped.stored.pixels} px", self._bytes_left
        with progress_bar(name, total, "B", leave=False, unit_scale=True, delay=1) as bar:
            while not event.wait(LOOK):
                bar.update(total - self._bytes_left - bar.n)


def in_order_of_need(shards: np.ndarray) -> np.ndarray:
    """The shards of an epoch's images, int64 [n], once each, those needed first in front."""
    found, first = np.unique(shards, return_index=True)
    return found[np.argsort(first)]
