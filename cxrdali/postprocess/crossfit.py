"""Predictions with labels, of images that were not trained on: what calibration and thresholds are fitted to.

What is fitted is judged by cross-fitting: the images are divided by subject, and each part is judged by rules fitted to
the other parts. So the gain that is shown is not the fit's own, and no patient stands on both sides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from cxrdali import predictions as tables
from cxrdali.data.options import TRAINED_ON
from cxrdali.data.splits import balanced_parts, group_ids
from cxrdali.data.targets import check_labelled, targets
from cxrdali.fitted import KEPT, sketch
from cxrdali.postprocess.aligned import aligned
from cxrdali.postprocess.options import FitOptions
from cxrdali.predictions import Kind, Predictions, Provenance, match
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.words import counted

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """truth: float32 [n, F] with 1, 0, NaN (ignored); logits: float32 [n, F]; part: int64 [n], from 0, the part of the
    cross-fit that an image is judged in."""

    truth: np.ndarray
    logits: np.ndarray
    part: np.ndarray


@dataclass(frozen=True)
class HeldOut(Parts):
    """findings: names, in the order of the columns; rows: int64 [n], in the catalog; about: the table's. made_from:
    what a file of rules says of its origin (`read_held_out`)."""

    findings: tuple[str, ...]
    rows: np.ndarray
    about: Provenance
    made_from: dict

    @property
    def images(self) -> np.ndarray:
        """Images whose target is known, of each finding: int64 [F]."""
        return (~np.isnan(self.truth)).sum(axis=0)

    @property
    def positives(self) -> np.ndarray:
        return (self.truth == 1).sum(axis=0)


def check_not_calibrated(path: Path, about: Provenance) -> None:
    """Raises UserError if a table's logits were calibrated: a second calibration corrects what is no longer there."""
    if about.kind == Kind.CALIBRATED:
        raise UserError(
            f"{path}: was calibrated before ({', then '.join(about.calibrated)}); give the table from before that"
        )


def check_not_trained_on(path: Path, about: Provenance, allow_leak: bool = False) -> None:
    """Raises UserError if a table holds images that were trained on, unless that is allowed."""
    if not allow_leak and about.split in TRAINED_ON and about.seen != ():
        raise UserError(
            f"{path}: was predicted on split {about.split!r}, whose images were trained on: they look better than any "
            "other; predict val, or say --allow-leak"
        )
    check_unseen(path, about, allow_leak)


def check_unseen(path: Path, about: Provenance, allow_leak: bool) -> None:
    """Raises UserError if a table says that some of its images were trained on, unless that is allowed."""
    if about.seen and not allow_leak:
        raise UserError(
            f"{path}: {'; '.join(about.seen)}: they look better than any other; give a table of unseen images, or say "
            "--allow-leak"
        )


def labelled(
    path: Path, table: Predictions, dataset: Dataset, labels: Labels, options: FitOptions
) -> tuple[np.ndarray, np.ndarray, Predictions]:
    """The catalog rows of a table's images, targets of those rows, and the table in their columns: of the findings that
    it has in common with the labels.

    Raises UserError if the table is not of this dataset and these labels, or its images have no label at all.
    """
    both = aligned(path, table, labels, options.findings)
    both.tell()
    rows, _ = match(path, both.table, dataset, both.labels)
    check_labelled(both.labels, rows, str(path))
    truth = targets(labels, options.uncertain).of(both.places)[rows]
    return rows, truth, both.table.of(both.labels.findings)


def read_held_out(path: Path, dataset: Dataset, labels: Labels, options: FitOptions) -> HeldOut:
    """A table of logits with its labels, in `options.folds` parts by subject.

    Raises:
        UserError: The table is of images that were trained on (unless `options.allow_leak`), holds probabilities, is
            not of this dataset and these labels, or has fewer subjects than folds.
    """
    table = tables.as_logits(tables.read(path), path)
    about, folds = table.provenance, options.folds
    check_not_trained_on(path, about, options.allow_leak)
    rows, truth, table = labelled(path, table, dataset, labels, options)
    part = parts(path, group_ids(dataset, "subject")[rows], folds)
    made_from = {
        **origin(path, table, labels.split[rows]),
        "labels": labels.name,
        "dataset": dataset.id,
        "synthetic": dataset.synthetic,
        "uncertain": options.uncertain,
        "images": len(rows),
        "folds": folds,
    }
    return HeldOut(truth, table.values, part, table.findings, rows, about, made_from)


def origin(path: Path, table: Predictions, released: np.ndarray) -> dict:
    """What rules say of the table that they are fitted to. released: object [n], the labels' split of each image.

    hashes, split: which images these are, as in `Fitted`. A table that holds released dev or test images is of that
    split whatever it says, unless it says that they were held out of training.
    """
    about, split = table.provenance, table.provenance.split
    if split in (None, "all"):
        split = next((name for name in KEPT if name in released), split)
    return {
        "predictions": path.name,
        "run": about.run,
        "split": split,
        "tta": about.tta,
        "calibrated": None if about.says_nothing else list(about.calibrated),
        "seen": None if about.seen is None else list(about.seen),
        "hashes": sketch(table.ids),
    }


def parts(path: Path, subjects: np.ndarray, folds: int) -> np.ndarray:
    """0 to folds - 1 for every image of a table, equal for those of a subject: int64 [n]. subjects: ids, [n].

    Raises UserError, naming the table, if it has fewer subjects than folds.
    """
    if len(np.unique(subjects)) < folds:
        raise UserError(
            f"{path}: images of {counted(len(np.unique(subjects)), 'subject')}, {folds} folds need at least as many; "
            "give more images or fewer --folds"
        )
    return balanced_parts(subjects, folds)


def cross_fit(
    data: Parts,
    fit: Callable[[np.ndarray, np.ndarray], T],
    use: Callable[[T, np.ndarray], np.ndarray],
    to_one: bool = False,
) -> np.ndarray:
    """use(fit(truth, logits of the other parts), logits of a part) for each part, put together: [n, F].

    to_one: fit to one other part alone, the next, and not to all others: what a small sample teaches.
    """
    results, number_of = None, data.part.max() + 1
    for number in range(number_of):
        inside = data.part == number
        others = data.part == (number + 1) % number_of if to_one else ~inside
        result = use(fit(data.truth[others], data.logits[others]), data.logits[inside])
        if results is None:
            results = np.empty((len(data.part), result.shape[1]), dtype=result.dtype)
        results[inside] = result
    return results
