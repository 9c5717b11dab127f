"""Which catalog rows a run trains on, validates on, predicts: splits, folds and groups.

Rows are always ascending (catalog order); the order in which they are visited is `cxrdali.data.order`'s.
"""

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold

from cxrdali.data.options import SPLITS, FoldOptions
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import sha256_bytes
from shards.words import choices


def train_and_validation(dataset: PackedDataset, labels: Labels, options: FoldOptions) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the released training split, divided by scikit-learn's GroupKFold: int64 [n], int64 [m]."""
    released = released_rows(dataset, labels, "train")
    if not len(released):
        raise UserError(f"{dataset.root}: labels {labels.name!r} have no packed image in their training split")
    groups = group_codes(dataset, options.group)[released]
    if len(np.unique(groups)) < options.folds:
        raise UserError(
            f"{dataset.root}: {len(np.unique(groups))} {options.group} groups in the training split of "
            f"{labels.name!r}, {options.folds} folds need at least as many; pack more images"
        )
    split = list(GroupKFold(options.folds).split(released, groups=groups))
    train, validation = split[options.fold]
    return released[train], released[validation]


def released_rows(dataset: PackedDataset, labels: Labels, split: str) -> np.ndarray:
    """Packed rows of a released split ("train", "dev", "test"): int64 [n], ascending."""
    return np.flatnonzero((labels.split == split) & dataset.packed)


def select(dataset: PackedDataset, labels: Labels, split: str, options: FoldOptions) -> np.ndarray:
    """Rows by name: train and val are this fold's, dev and test the released ones, all is every packed row."""
    if split == "all":
        return np.flatnonzero(dataset.packed)
    if split in ("train", "val"):
        return train_and_validation(dataset, labels, options)[split == "val"]
    if split not in SPLITS:
        raise UserError(f"split {split!r}: {choices(split, SPLITS)}")
    rows = released_rows(dataset, labels, split)
    if not len(rows):
        raise UserError(f"{dataset.root}: labels {labels.name!r} have no packed image in split {split!r}")
    return rows


def group_codes(dataset: PackedDataset, group: str) -> np.ndarray:
    """An integer per row, equal for rows of the same subject (or study of a subject): int64 [rows]."""
    if group == "subject":
        return pd.factorize(dataset.columns("subject_id")["subject_id"])[0]
    table = dataset.columns("subject_id", "study_id")
    return pd.factorize(table["subject_id"] + "/" + table["study_id"])[0]


def subject_is(dataset: PackedDataset) -> str:
    """What a subject is here: "patient", or "study" or "image" where no patients are known."""
    table = dataset.columns("subject_id", "study_id", "image_id")
    if (table["subject_id"] != table["study_id"]).any():
        return "patient"
    return "study" if (table["study_id"] != table["image_id"]).any() else "image"


def subjects_on_both_sides(dataset: PackedDataset, train: np.ndarray, validation: np.ndarray) -> int:
    """How many subjects have images in both; with --group study this is the leak that the paper accepted."""
    subjects = group_codes(dataset, "subject")
    return len(np.intersect1d(subjects[train], subjects[validation]))


def rows_sha256(rows: np.ndarray) -> str:
    """A fingerprint of a selection. GroupKFold breaks ties by a sort that may differ between processors,
    so a run keeps this beside the fold's number and a continued run compares it."""
    return sha256_bytes(np.ascontiguousarray(rows, dtype="<i8").tobytes())
