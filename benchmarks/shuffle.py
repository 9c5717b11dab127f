"""How much worse than a permutation of everything does the windowed order mix?

    python -m benchmarks.shuffle [--save]

Orders alone, no images: --rows images in studies as MIMIC-CXR has them (one to four images, 1.6 on average), packed as
`cxrdali shard` packs them (studies shuffled once, shards of --shard-images), findings drawn by study. Per order, over
--epochs epochs of batches of --batch images:

    spread of a finding's positives  variance, over batches, of how many images have a finding that 1 % (0.1 %) of the
                                     studies have: more than global's means batches that resemble one another less
    pairs of one study in a batch    such pairs repeat one patient in a gradient
    pairs that meet again            pairs of a batch that are in one batch of the next epoch, too

of_global is the value divided by the global order's; 1 is as good as a permutation of everything.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from benchmarks import results
from cxrdali.data.order import global_order, windowed_order
from shards.randomness import permutation

IMAGES = (1, 2, 3, 4)  # of a study
SHARE = (0.55, 0.32, 0.11, 0.02)  # of the studies that have as many: 1.6 images on average
PREVALENCE = (0.01, 0.001)
SPREAD, PAIRS, AGAIN = "spread of a finding's positives", "pairs of one study in a batch", "pairs that meet again"
GLOBAL = "global"


def layout(rows: int, shard_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(study, shard) of every row: int64 [rows] each. Studies come one after the other, none spans two shards."""
    generator = np.random.default_rng(seed)
    images = generator.choice(IMAGES, size=rows, p=SHARE)
    study = np.repeat(np.arange(rows), images)[:rows]
    first = np.flatnonzero(np.diff(study, prepend=-1))
    shard_of_study, shard, used = np.empty(len(first), dtype=np.int64), 0, 0
    for place, count in enumerate(np.diff(first, append=rows).tolist()):
        if used + count > shard_images:
            shard, used = shard + 1, 0
        shard_of_study[place] = shard
        used += count
    return study, shard_of_study[study]


def positives(study: np.ndarray, prevalence: float, seed: int) -> np.ndarray:
    """bool [rows]: a finding that this share of the studies has, all images of a study alike."""
    studies = int(study[-1]) + 1
    chosen = permutation(studies, seed, 0)[: round(studies * prevalence)]
    return np.isin(study, chosen)


def measure(orders: Sequence[np.ndarray], study: np.ndarray, found: Sequence[np.ndarray], batch: int) -> dict:
    """The measures of one order; `orders` are its epochs, `found` the rows that have each finding."""
    spread: list[list[float]] = [[] for _ in found]
    pairs, again, before = [], [], None
    for order in orders:
        batches = order[: len(order) // batch * batch].reshape(-1, batch)
        for each, has in zip(spread, found, strict=True):
            each.append(float(has[batches].sum(axis=1).var()))
        pairs.append(_same(study[batches]) / len(batches))
        place = np.empty(len(order), dtype=np.int64)
        place[batches.ravel()] = np.repeat(np.arange(len(batches)), batch)
        if before is not None:  # pairs of this epoch's batches that the last epoch had in one batch
            again.append(_same(before[batches]) / len(batches))
        before = place
    named = {
        f"{SPREAD} ({share:.1%} of the studies)": np.mean(each) for share, each in zip(PREVALENCE, spread, strict=True)
    }
    return {**named, PAIRS: np.mean(pairs), AGAIN: np.mean(again)}


def _same(values: np.ndarray) -> int:
    """Pairs of equal values within the rows of int64 [batches, batch]."""
    values = np.sort(values, axis=1)
    total, width = 0, values.shape[1]
    for apart in range(1, width):  # equal values stand together: the first distance without a pair is the last
        count = int((values[:, apart:] == values[:, :-apart]).sum())
        if not count:
            break
        total += count
    return total


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shuffle", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=377_110, help="images [%(default)s, MIMIC-CXR's]")
    parser.add_argument("--shard-images", type=int, default=4096, help="most images in a shard [%(default)s]")
    parser.add_argument("--windows", default="2,4,8,16,32", help="shards open at a time [%(default)s]")
    parser.add_argument("--batch", type=int, default=256, help="images in a batch [%(default)s]")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each order [%(default)s]")
    results.add_save_option(parser, "shuffle")
    options = parser.parse_args()
    environment = results.environment("benchmarks.shuffle")
    study, shard = layout(options.rows, options.shard_images, seed=0)
    found = [positives(study, share, seed) for seed, share in enumerate(PREVALENCE)]
    rows, epochs = np.arange(options.rows), range(options.epochs)
    measured = {GLOBAL: measure([global_order(rows, 0, epoch) for epoch in epochs], study, found, options.batch)}
    for window in map(int, options.windows.split(",")):
        orders = [windowed_order(rows, shard, 0, epoch, window)[0] for epoch in epochs]
        measured[f"windowed, {window} shards"] = measure(orders, study, found, options.batch)
    saved = []
    shards = int(shard.max()) + 1
    print(f"{options.rows:,} images in {shards} shards, batches of {options.batch}")
    for order, values in measured.items():
        print(f"  {order}")
        for name, value in values.items():
            of_global = value / measured[GLOBAL][name]
            print(f"    {name:52} {value:10.4f}   {of_global:6.2f} times global's", flush=True)
            saved.append({"order": order, "measure": name, "value": float(value), "of_global": float(of_global)})
    common = {"rows": options.rows, "shards": shards, "shard_images": options.shard_images, "batch": options.batch}
    if options.save:
        path = results.save([{**common, **row} for row in saved], environment, options.save, "shuffle")
        print(f"{len(saved)} rows -> {path}")


if __name__ == "__main__":
    main()
