"""Which image goes to which row and shard: decided before any image is read.

Because the plan needs no pixels, every shard is an independent task that can be made, killed and made again,
and a file that turns out to be damaged moves no other row.
"""

from urllib.parse import quote

import numpy as np
import pandas as pd

from shards.randomness import permutation

STUDY_STREAM = 0


def plan(images: pd.DataFrame, shard_images: int, seed: int, limit: int | None = None) -> pd.DataFrame:
    """Images in row order with the columns row and shard added.

    Studies are shuffled once, so that reading shards in sequence mixes subjects; the images of a study stand
    together. `limit` keeps the first whole studies that hold at most that many images (at least one study).
    """
    assert not (images[["subject_id", "study_id", "image_id"]] == "").to_numpy().any(), "a blank id has no key"
    ordered = images.sort_values(["subject_id", "study_id", "image_id"], ignore_index=True)
    study = ordered.groupby(["subject_id", "study_id"], sort=True).ngroup().to_numpy()
    place_of_study = np.empty(study.max(initial=-1) + 1, dtype=np.int64)
    place_of_study[permutation(len(place_of_study), seed, STUDY_STREAM)] = np.arange(len(place_of_study))
    place = place_of_study[study]
    order = np.argsort(place, kind="stable")
    ordered, place = ordered.iloc[order].reset_index(drop=True), place[order]

    counts = np.bincount(place)
    if limit is not None:
        kept = max(1, int(np.searchsorted(np.cumsum(counts), limit, side="right")))
        counts = counts[:kept]
        ordered = ordered.iloc[: counts.sum()].reset_index(drop=True)
    ordered["row"] = np.arange(len(ordered), dtype=np.int64)
    ordered["shard"] = np.repeat(shard_of_study(counts, shard_images), counts)
    return ordered


def shard_of_study(images_per_study: np.ndarray, shard_images: int) -> np.ndarray:
    """Fill shards in order without splitting a study: int64 [studies], from 0 without gaps.

    A shard is closed before the study that would take it over `shard_images`; a single study larger than
    that has a shard to itself.
    """
    shards = np.empty(len(images_per_study), dtype=np.int64)
    shard, filled = 0, 0
    for study, count in enumerate(images_per_study.tolist()):
        if filled and filled + count > shard_images:
            shard, filled = shard + 1, 0
        shards[study] = shard
        filled += count
    return shards


def sample_key(subject_id: str, study_id: str, image_id: str) -> str:
    """SUBJECT/STUDY/IMAGE, percent-escaped, dots too: WebDataset ends a key at its first dot.

    It also skips names that begin with __ID__, so a first underscore that another follows is escaped.
    """
    key = "/".join(quote(name, safe="").replace(".", "%2E") for name in (subject_id, study_id, image_id))
    return f"%5F{key[1:]}" if key.startswith("__") else key
