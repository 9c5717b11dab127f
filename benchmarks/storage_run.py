"""One cold epoch of one baseline of `storage.py`, in a process of its own: one line of JSON.

    python -m benchmarks.storage_run windowed PACK 512 64 4

A process of its own, because limits hold for processes and because mapped pages cannot be dropped from the cache.
"""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.memory import proc_number
from shards.dataset.packed import PackedDataset

READ, GLOBAL, BARE, WINDOWED = "sequential read", "global", "windowed, no read-ahead", "windowed"
BASELINES = (READ, WINDOWED, BARE, GLOBAL)
PIECE = 2**20  # bytes, of the sequential read
SEED = 0


def main() -> None:
    """BASELINE PACK SIZE BATCH WINDOW: the stored size in pixels, images, shards open at a time."""
    baseline, pack, *numbers = sys.argv[1:]
    size, batch, window = map(int, numbers)
    dataset = PackedDataset.open(Path(pack))
    read = read_bytes()
    if baseline == READ:
        found = sequential(dataset, size)
    else:
        found = epoch(make_loader(dataset, baseline, size, batch, window))
    print(json.dumps({**found, "read_bytes": read_bytes() - read}))


def sequential(dataset: PackedDataset, size: int) -> dict:
    """Every shard of a size once, in order, in large reads: what the medium can do."""
    stored = dataset.stored(size)
    piece = bytearray(PIECE)
    start = time.perf_counter()
    for path in stored.paths.values():
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass
    return {"seconds": time.perf_counter() - start, "images": int(dataset.packed.sum())}


def epoch(loader: Iterable) -> dict:
    """An augmented epoch whose consumer does nothing. The clock starts before the pipeline is built."""
    own, images, start = [], 0, time.perf_counter()
    for batch in loader:
        images += len(batch.rows)
        own.append(anonymous_bytes())
    return {"seconds": time.perf_counter() - start, "images": images, "anonymous_bytes": own}


def make_loader(dataset: PackedDataset, baseline: str, size: int, batch: int, window: int) -> Iterable:
    """The loader of a baseline: all have the same images and augmentation, and drop the last partial batch."""
    from cxrdali.data.augment import AugmentOptions  # torch and DALI, which the sequential read does without
    from cxrdali.data.loader import Loader
    from cxrdali.data.options import LoaderOptions

    rows = dataset.packed.nonzero()[0]
    order = "global" if baseline == GLOBAL else "windowed"
    options = LoaderOptions(size, batch, order=order, window=window)
    common = {"seed": SEED, "augment": AugmentOptions(), "drop_last": True}
    loader = Loader(dataset, rows, options, shuffle=True, **common)
    if baseline != BARE:
        return loader
    # the same order, given as one that is not shuffled: a loader in global order reads nothing ahead
    return Loader(dataset, loader.epoch_rows(0), LoaderOptions(size, batch), shuffle=False, **common)


def anonymous_bytes() -> int:
    """This process's own memory: resident, and no file's."""
    return proc_number("status", "RssAnon") * 1024


def read_bytes() -> int:
    """What this process made the disks read so far."""
    return proc_number("io", "read_bytes")


if __name__ == "__main__":
    main()
