"""Which image goes to which row and shard: decided before any image is read.

Because the plan needs no pixels, every shard is an independent task that can be made, killed and made again,
and a file that turns out to be damaged moves no other row.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shards.randomness import permutation

STUDY_STREAM = 0


@dataclass(frozen=True)
class Plan:
    """images: a release's, in its own order; order: int64 [rows], which of them each row is; shard: int64 [rows],
    ascending, from 0 without gaps.

    Rows are made from these when they are needed: all at once they would be a second copy of the release's texts.
    """

    images: pd.DataFrame
    order: np.ndarray
    shard: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    @property
    def shards(self) -> int:
        return int(self.shard[-1]) + 1

    def rows(self, start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """Images in row order with the columns row and shard added."""
        place = self.order[start:stop]
        found = self.images.iloc[place].reset_index(drop=True)
        return found.assign(row=np.arange(start, start + len(place)), shard=self.shard[start:stop])

    def path(self, row: int) -> str:
        """The file of a row, from the release's root."""
        return self.images["path"].iloc[self.order[row]]


def plan(images: pd.DataFrame, shard_images: int, seed: int, limit: int | None = None) -> Plan:
    """Decide which image is which row and in which shard.

    Studies are shuffled once, so that reading shards in sequence mixes subjects; the images of a study stay together.

    Args:
        images: A release's, with the columns subject_id, study_id and image_id.
        shard_images: Most images in a shard, unless a single study has more.
        seed: Of the studies' order.
        limit: Keep the first whole studies that hold at most so many images (at least one study).
    """
    ids = images[["subject_id", "study_id", "image_id"]].reset_index(drop=True)
    assert not (ids == "").to_numpy().any(), "a blank id has no key"
    ids = ids.sort_values(list(ids))
    study = ids.groupby(["subject_id", "study_id"], sort=True).ngroup().to_numpy()
    place_of_study = np.empty(study.max(initial=-1) + 1, dtype=np.int64)
    place_of_study[permutation(len(place_of_study), seed, STUDY_STREAM)] = np.arange(len(place_of_study))
    place = place_of_study[study]
    order = np.argsort(place, kind="stable")
    counts, order = np.bincount(place), ids.index.to_numpy(dtype=np.int64)[order]
    if limit is not None:
        kept = max(1, int(np.searchsorted(np.cumsum(counts), limit, side="right")))
        counts = counts[:kept]
        order = order[: counts.sum()]
    return Plan(images, order, np.repeat(shard_of_study(counts, shard_images), counts))


def shard_of_study(images_per_study: np.ndarray, shard_images: int) -> np.ndarray:
    """Fill shards in order without splitting a study: int64 [studies], from 0 without gaps.

    A shard is closed before the study that would take it over `shard_images`; a larger study has a shard to itself.
    """
    shards = np.empty(len(images_per_study), dtype=np.int64)
    shard, filled = 0, 0
    for study, count in enumerate(images_per_study.tolist()):
        if filled and filled + count > shard_images:
            shard, filled = shard + 1, 0
        shards[study] = shard
        filled += count
    return shards
