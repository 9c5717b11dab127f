"""Which catalog rows a run trains on, validates on, predicts: splits, folds and groups.

Rows are always ascending (catalog order); the order in which they are visited is `cxrdali.data.order`'s.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxrdali.data.options import SPLITS, FoldOptions
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.dataset.tables import PIECE
from shards.errors import UserError
from shards.storage.files import sha256_bytes
from shards.words import choices


def train_and_validation(dataset: Dataset, labels: Labels, options: FoldOptions) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the released training split: those of all folds but one, and those of the one: int64 [n], int64 [m].

    Both of the view in `options` alone; folds are made of all images, so they are the same for each view. Pseudo-labels
    never validate: all of them train, but for the fold's patients where another pack has the same ones.
    """
    released, fold = in_folds(dataset, labels, options)
    inside, kept = fold == options.fold, np.ones(len(fold), dtype=bool)
    pseudo = [part for part, own in zip(dataset.parts, labels.apart(), strict=True) if own.pseudo is not None]
    for part in dataset.parts:
        place = slice(*np.searchsorted(released, [part.start, part.stop]))
        own = inside[place]
        if part in pseudo:
            kept[place], inside[place] = ~own if options.shares_patients(part.name) else True, False
            continue
        if own.all() or not own.any():
            holds = "all" if own.any() else "none"
            even = "" if options.stratify else "--stratify, which fills folds evenly, "
            raise UserError(
                f"{part.dataset.root}: fold {options.fold} of {options.folds} holds {holds} of the {options.group} "
                f"groups in the training split of {labels.name!r}: ids decide; give {even}another --fold-seed or fewer "
                "--folds"
            )
    sides = of_view(dataset, released[~inside & kept], options.view), of_view(dataset, released[inside], options.view)
    for part in dataset.parts:
        for side, rows in zip(("train on", "validate on"), sides[: 1 if part in pseudo else 2], strict=False):
            if not len(part.own(rows)):
                raise UserError(
                    f"{part.dataset.root}: no {options.view} image to {side} in the training split of {labels.name!r}; "
                    "give another --view, or other --data"
                )
    return sides


def of_view(dataset: Dataset, rows: np.ndarray, view: str) -> np.ndarray:
    """Those of the rows, int64 [n], that are of a view, "frontal" or "lateral", by the catalog; "all": all of them."""
    return rows if view == "all" else rows[(dataset.of_rows(rows, "view")["view"] == view).to_numpy()]


def in_folds(dataset: Dataset, labels: Labels, options: FoldOptions) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the released training split, and the fold of each by the rule in `options`: int64 [n], int64 [n].

    Each of several packs is divided as it is alone: a model of one and a model of all validate on the same images.
    """
    if len(dataset.parts) == 1:
        return _in_folds(dataset, labels, options)
    rows, folds = [], []
    for part, own in zip(dataset.parts, labels.apart(), strict=True):
        released, fold = _in_folds(part.dataset, own, options)
        rows.append(part.start + released)
        folds.append(fold)
    return np.concatenate(rows), np.concatenate(folds)


def _in_folds(dataset: Dataset, labels: Labels, options: FoldOptions) -> tuple[np.ndarray, np.ndarray]:
    released = released_rows(dataset, labels, "train")
    if not len(released):
        raise UserError(
            f"{dataset.root}: labels {labels.name!r} have no packed image in their training split, so nothing can be "
            "trained on it; give other --labels or another --data"
        )
    codes, ids = coded_groups(dataset, options.group)
    codes = codes[released]
    present = np.bincount(codes, minlength=len(ids)) > 0
    number = int(present.sum())
    predicted = labels.pseudo is not None  # they need no fold but that of another pack's patients, which ids decide
    if number < options.folds and not predicted:
        raise UserError(
            f"{dataset.root}: {number} {options.group} groups in the training split of {labels.name!r}, "
            f"{options.folds} folds need at least as many; pack more images"
        )
    if options.fold_rule == "catalog" and not predicted:
        from sklearn.model_selection import GroupKFold  # most of a second of import time, for older runs alone

        fold = np.empty(len(released), dtype=np.int64)
        for number, (_, inside) in enumerate(GroupKFold(options.folds).split(released, groups=codes)):
            fold[inside] = number
    elif options.stratify and not predicted:
        groups = ids.to_numpy(zero_copy_only=False)[codes]
        fold = balanced_parts(groups, options.folds, options.fold_seed, labels.values[released] == 1)
    else:
        of_id = np.empty(len(ids), dtype=np.int64)
        of_id[present] = hashed_parts(ids.filter(pa.array(present)), options.folds, options.fold_seed)
        fold = of_id[codes]
    return released, fold


def fold_positives(dataset: Dataset, labels: Labels, options: FoldOptions) -> dict[str, list[int]]:
    """Images with each finding in fold 0, 1, ..., the rarest finding first; without those that no image has."""
    released, fold = in_folds(dataset, labels, options)
    own = np.isin(released, of_view(dataset, released, options.view))
    for part, its in zip(dataset.parts, labels.apart(), strict=True):  # those of pseudo-labels are in none
        own &= (its.pseudo is None) | (released < part.start) | (released >= part.stop)
    released, fold = released[own], fold[own]
    positive = labels.values[released] == 1
    order = np.argsort(positive.sum(axis=0), kind="stable")
    counts = {labels.findings[f]: np.bincount(fold[positive[:, f]], minlength=options.folds) for f in order}
    return {name: each.tolist() for name, each in counts.items() if each.any()}


def hashed_parts(ids: Sequence[str] | pa.Array, folds: int, seed: int = 0) -> np.ndarray:
    """The part of each group, by its id and the seed alone: int64 [n], from 0.

    So nothing moves a group: no order of rows, no image or group that comes or goes. Parts cannot be equal then: of
    MIMIC-CXR's images a fifth has 20 +- 0.1 % by study and 20 +- 0.3 % by subject (one standard deviation), of 40
    subjects 20 +- 6 %, and of fewer a part may be empty.
    """
    return ((_hashes(ids, seed) >> np.uint64(32)) * np.uint64(folds) >> np.uint64(32)).astype(np.int64)


def balanced_parts(groups: Sequence[str], folds: int, seed: int = 0, positives: np.ndarray | None = None) -> np.ndarray:
    """The part of each image, so that parts have as many images, and as many of each finding: int64 [n], from 0.

    The rarest finding comes first: its groups, those with most images of it before others, each go to the part that
    lacks most of them, then the groups of the next finding that are left, at last those without any, by all of their
    images (as Sechidis et al. 2011 for single images). Ties are broken by hashes of the ids. The order of rows decides
    nothing, but another image or label can move any group.

    groups: [n], each image's, which stays together; seed: another one breaks ties otherwise; positives: bool [n, F],
    which findings each image has (None: only the number of images counts).
    """
    codes, ids = pd.factorize(np.asarray(groups, dtype=object))
    images = np.bincount(codes)
    found = [] if positives is None else [np.bincount(codes, each, len(ids)).astype(np.int64) for each in positives.T]
    counts = np.stack([*sorted(found, key=lambda each: each.sum()), images])  # the rarest first, all images last
    hashes = _hashes(ids, seed)
    lacking = [[total] * folds for total in counts.sum(axis=1).tolist()]  # times folds: whole numbers have no rounding
    part = np.full(len(ids), -1)
    for place, of_group in enumerate(counts):
        left = np.flatnonzero((part < 0) & (of_group > 0))
        for group in left[np.lexsort((hashes[left], -images[left], -of_group[left]))].tolist():
            first = int(hashes[group]) % folds
            turn = [*range(first, folds), *range(first)]
            chosen = part[group] = max(turn, key=lambda fold: (lacking[place][fold], lacking[-1][fold]))
            for row, count in zip(lacking, counts[:, group].tolist(), strict=True):
                row[chosen] -= folds * count
    return part[codes]


def _hashes(ids: Sequence[str] | pa.Array, seed: int) -> np.ndarray:
    keyed = blake2b(digest_size=8, key=seed.to_bytes(8, "little"), person=b"ids")

    def hashed(text: str) -> bytes:
        made = keyed.copy()  # in half of the time that making one with a key takes
        made.update(text.encode())
        return made.digest()

    found = np.empty(len(ids), dtype=np.uint64)
    for at in range(0, len(ids), PIECE):
        piece = ids[at : at + PIECE]
        texts = piece.to_pylist() if isinstance(piece, pa.Array) else piece
        found[at : at + PIECE] = np.frombuffer(b"".join(map(hashed, texts)), dtype="<u8")
    return found


def released_rows(dataset: Dataset, labels: Labels, split: str) -> np.ndarray:
    """Packed rows of a released split ("train", "dev", "test"): int64 [n], ascending."""
    return np.flatnonzero((labels.split == split) & dataset.packed)


def select(dataset: Dataset, labels: Labels, split: str, options: FoldOptions) -> np.ndarray:
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


def coded_groups(dataset: Dataset, group: str) -> tuple[np.ndarray, pa.Array]:
    """Whose images are: int32 [rows], and the subjects' ids (or of studies of a subject) that it stands for, once each
    in the order of their first rows."""
    table = dataset.arrow("subject_id", *(["study_id"] if group == "study" else []))
    ids = table["subject_id"]
    if group == "study":
        ids = pc.binary_join_element_wise(ids, table["study_id"], pa.scalar("/", ids.type))
    found = ids.dictionary_encode().combine_chunks()
    return found.indices.to_numpy(), found.dictionary


def group_ids(dataset: Dataset, group: str) -> np.ndarray:
    """The id of each row's subject (or study of a subject): texts [rows]."""
    codes, ids = coded_groups(dataset, group)
    return ids.to_numpy(zero_copy_only=False)[codes]


def group_codes(dataset: Dataset, group: str) -> np.ndarray:
    """An integer per row, equal for rows of the same subject (or study of a subject): int32 [rows]."""
    return coded_groups(dataset, group)[0]


def subject_is(dataset: Dataset) -> str:
    """What a subject is here: "patient", or "study" or "image" where no patients are known."""
    table = dataset.arrow("subject_id", "study_id", "image_id")
    if not table["subject_id"].equals(table["study_id"]):
        return "patient"
    return "image" if table["study_id"].equals(table["image_id"]) else "study"


def subjects_on_both_sides(dataset: Dataset, train: np.ndarray, validation: np.ndarray) -> int:
    """How many subjects have images in both; with --group study this is the leak that the paper accepted."""
    subjects = group_codes(dataset, "subject")
    return len(np.intersect1d(subjects[train], subjects[validation]))


def rows_sha256(rows: np.ndarray) -> str:
    """A fingerprint of a selection, which a run keeps beside its fold: a fold may come out otherwise where images or
    labels are others (and with --fold-rule catalog, whose ties GroupKFold breaks as the processor sorts)."""
    return sha256_bytes(np.ascontiguousarray(rows, dtype="<i8").tobytes())
