"""Packed images that have the same pixels as others: of whom, and in which splits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.dataset.pixels import is_constant, same_pixels

FIRST_IDS = 3  # of a set


@dataclass(frozen=True)
class SamePixels:
    """Sets of images with the same pixels; those of a single gray, of which any two may be the same, are only counted.

    sets: a row per set, those of most patients first: images, patients, ids (of the first few), and as "in NAME" the
    splits of a label release that it is in. blank: images of a single gray that another one has too.
    """

    sets: pd.DataFrame
    blank: int

    @property
    def of_others(self) -> int:
        """Images with the same pixels as an image of another patient."""
        return int(self.sets.loc[self.sets["patients"] > 1, "images"].sum())

    @property
    def of_one(self) -> int:
        """Images with the same pixels as another of their patient, and of no other patient."""
        return int(self.sets["images"].sum()) - self.of_others

    def across(self, release: str) -> int:
        """Images whose set is in two splits of a label release or more."""
        return int(self.sets.loc[self.sets[f"in {release}"].map(len) > 1, "images"].sum())


def find(dataset: PackedDataset, patient: np.ndarray, labels: Mapping[str, Labels]) -> SamePixels | None:
    """None if it is not known: hashes of pixels are as old as `hashed` in dataset.json. patient: int64 [rows]."""
    side = dataset.info.get("hashed")
    if not side or "pixels" not in dataset.catalog:
        return None
    hashes = dataset.catalog["pixels"].fillna("").to_numpy(dtype=str)
    group, _ = same_pixels(hashes, patient)
    rows = np.flatnonzero(group >= 0)
    blank = is_constant(hashes[rows], side) if len(rows) else np.zeros(0, dtype=bool)
    names = dataset.catalog["image_id"].to_numpy()
    found = []
    for _, members in pd.Series(rows[~blank]).groupby(group[rows[~blank]]):
        each = members.to_numpy()
        splits = {
            f"in {name}": sorted({split for split in release.split[each] if split is not None})
            for name, release in labels.items()
        }
        patients = len(np.unique(patient[each]))
        found.append({"images": len(each), "patients": patients, "ids": names[each][:FIRST_IDS].tolist(), **splits})
    sets = pd.DataFrame(found, columns=["images", "patients", "ids", *(f"in {name}" for name in labels)])
    sets = sets.sort_values(["patients", "images"], ascending=False, kind="stable", ignore_index=True)
    return SamePixels(sets, int(blank.sum()))
