"""The order of one epoch: an array of catalog rows, a pure function of rows, seed and epoch.

Global batch g is rows [g*B, (g+1)*B). Nothing here knows threads, ranks or DALI, so none of them can change
the order, and continuing an epoch is slicing its array.
"""

from collections.abc import Callable

import numpy as np

from shards.randomness import permutation

# Streams of one seed: kind in the upper half, epoch in the lower. shards.packing.plan uses stream 0.
ROWS, SHARDS, AUGMENT, DRAWS, NOISE = 1, 2, 3, 4, 5
MIX = 16  # and the next ones, one for each pack
ORDERS = ("global", "windowed")
Windows = list[tuple[int, np.ndarray]]  # first position of each, ascending from 0, and its shards


def stream(kind: int, epoch: int) -> int:
    return (kind << 32) | epoch


def global_order(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """`rows` (repeats allowed) in a fresh uniform permutation: for pages in memory or on NVMe."""
    return rows[permutation(len(rows), seed, stream(ROWS, epoch))]


def windowed_order(
    rows: np.ndarray,
    shard_of_row: np.ndarray,
    seed: int,
    epoch: int,
    window: int,
    pack_of: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, Windows]:
    """`rows` with only `window` shards open at a time: for data larger than memory on slow disks.

    Shards are shuffled, taken `window` at a time, and the rows of a window are permuted together; studies were
    shuffled over shards at packing, so a window is a random sample of the data. With `pack_of`, which tells the packs
    of shards, each pack's are spread evenly over the epoch. Returns the order and, per window, its first position and
    its shards (`cxrdali.data.readahead` reads them ahead of time).
    """
    shards = np.flatnonzero(np.bincount(shard_of_row[rows]))
    shards = shards[permutation(len(shards), seed, stream(SHARDS, epoch))]
    if pack_of is not None:
        packs = pack_of(shards)
        place = np.empty(len(shards))  # from 0 to 1 in the epoch
        for own in (packs == pack for pack in np.unique(packs)):
            place[own] = (np.arange(own.sum()) + 0.5) / own.sum()
        shards = shards[np.argsort(place, kind="stable")]
    window_of_shard = np.full(int(shards.max(initial=-1)) + 1, -1)
    window_of_shard[shards] = np.arange(len(shards)) // window
    mixed = global_order(rows, seed, epoch)
    windows = window_of_shard[shard_of_row[mixed]]
    # NumPy sorts 16 bits by counting, in a tenth of the time that it takes for 64
    narrow = windows.astype(np.uint16) if len(shards) <= 2**16 else windows
    order = mixed[np.argsort(narrow, kind="stable")]
    first = [0, *np.cumsum(np.bincount(windows))[:-1].tolist()] if len(rows) else []
    return order, [(p, shards[w * window : (w + 1) * window]) for w, p in enumerate(first)]


def shard_windows(rows: np.ndarray, shard_of_row: np.ndarray) -> Windows:
    """Windows of one shard each for rows that are read in the order given, as in `windowed_order`.

    Empty if the rows come back to a shard that they had left: reading whole shards ahead is no help then.
    """
    shards = shard_of_row[rows]
    first = np.flatnonzero(np.diff(shards, prepend=-1))
    if np.count_nonzero(np.bincount(shards)) < len(first):
        return []
    return [(int(p), shards[p : p + 1]) for p in first]


def batch_bounds(count: int, batch: int, start: int = 0, drop_last: bool = True) -> list[tuple[int, int]]:
    """Half-open position ranges of the batches of `count` samples, from position `start` on."""
    stop = start + (count - start) // batch * batch if drop_last else count
    return [(at, min(at + batch, stop)) for at in range(start, stop, batch)]


def share_of(bounds: tuple[int, int], rank: int, world: int) -> tuple[int, int]:
    """A rank's part of a global batch: its positions, in as many equal parts as there are ranks."""
    start, stop = bounds
    return start + (stop - start) * rank // world, start + (stop - start) * (rank + 1) // world
