"""One cold epoch of one contender of `storage.py`, in a process of its own: one line of JSON.

    python -m benchmarks.storage_run PACK --size 512 --batch 64 --window 4 --contender windowed

A process of its own, because limits hold for processes and because mapped pages cannot be dropped from the cache.
"""

import argparse
import json
import time
from pathlib import Path

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from shards.dataset.packed import PackedDataset

READ, GLOBAL, BARE, WINDOWED = "sequential read", "global", "windowed, no read-ahead", "windowed"
CONTENDERS = (READ, WINDOWED, BARE, GLOBAL)
PIECE = 2**20  # bytes, of the sequential read
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, required=True)
    parser.add_argument("--size", type=int, required=True, help="stored size, pixels")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--window", type=int, required=True, help="shards open at a time")
    options = parser.parse_args()
    dataset = PackedDataset.open(options.pack)
    read = read_bytes()
    found = sequential(dataset, options.size) if options.contender == READ else epoch(dataset, options)
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


def epoch(dataset: PackedDataset, options: argparse.Namespace) -> dict:
    """An augmented epoch whose consumer does nothing. The clock starts before the pipeline is built."""
    loader = make_loader(dataset, options.contender, options.size, options.batch, options.window)
    anon = []
    start = time.perf_counter()
    images = 0
    for batch in loader:
        images += len(batch.rows)
        anon.append(anonymous_bytes())
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "images": images, "anonymous_bytes": anon}


def make_loader(dataset: PackedDataset, contender: str, size: int, batch: int, window: int) -> Loader:
    """The loader of a contender: all have the same images and augmentation, and drop the last partial batch."""
    rows = dataset.packed.nonzero()[0]
    order = "global" if contender == GLOBAL else "windowed"
    options = LoaderOptions(size, batch, order=order, window=window)
    common = {"seed": SEED, "augment": AugmentOptions(), "drop_last": True}
    loader = Loader(dataset, rows, options, shuffle=True, **common)
    if contender != BARE:
        return loader
    # the same order, given as one that is not shuffled: a loader in global order reads nothing ahead
    return Loader(dataset, loader.epoch_rows(0), LoaderOptions(size, batch), shuffle=False, **common)


def anonymous_bytes() -> int:
    """This process's own memory: resident, and no file's."""
    return _number(Path("/proc/self/status"), "RssAnon") * 1024


def read_bytes() -> int:
    """What this process made the disks read so far."""
    return _number(Path("/proc/self/io"), "read_bytes")


def _number(path: Path, name: str) -> int:
    lines = path.read_text().splitlines()
    return int(next(line.split(":")[1].split()[0] for line in lines if line.startswith(f"{name}:")))


if __name__ == "__main__":
    main()
