"""Predictions with labels, of images that were not trained on: what calibration and thresholds are learnt from.

What is learnt is judged by cross-fitting: the images are divided by subject, and each part is judged by what the
other parts taught. So the gain that is shown is not the fit's own, and no patient stands on both sides.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from sklearn.model_selection import GroupKFold

from cxrdali import predictions as tables
from cxrdali.data.splits import group_codes
from cxrdali.data.targets import check_labelled, targets
from cxrdali.predictions import Predictions, Provenance, first_of, match
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

CALIBRATED = "calibrated: "  # how a calibration's line in a table's history starts
T = TypeVar("T")


@dataclass(frozen=True)
class HeldOut:
    """truth: float32 [n, F] with 1, 0, NaN (ignored); logits: float32 [n, F]; both in the order of `findings`.

    part: int64 [n], the part of the cross-fit that an image is judged in. made_from: what a file of rules says about
    its origin (predictions, run, split, tta, calibrated, labels, dataset, uncertain, images, folds).
    """

    findings: tuple[str, ...]
    truth: np.ndarray
    logits: np.ndarray
    part: np.ndarray
    made_from: dict


def read_held_out(
    path: Path, dataset: PackedDataset, labels: Labels, *, uncertain: str, folds: int, force: bool
) -> HeldOut:
    """A table of logits with its labels, in `folds` parts by subject.

    Raises UserError if the table is of images that were trained on (unless `force`), holds probabilities, is not of
    this dataset and these labels, or has fewer subjects than `folds`.
    """
    table = tables.as_logits(tables.read(path), path)
    about = table.provenance
    if about.split in ("train", "all") and not force:
        raise UserError(
            f"{path}: was predicted on split {about.split!r}, whose images were trained on: they look better than any "
            "other; predict val, or say --force"
        )
    rows, places = match(path, table, dataset, labels)
    check_labelled(labels, rows, str(path))
    subjects = group_codes(dataset, "subject")[rows]
    if folds < 2:
        raise UserError(f"folds {folds}: at least 2")
    if len(np.unique(subjects)) < folds:
        raise UserError(
            f"{path}: images of {len(np.unique(subjects))} subjects, {folds} folds need at least as many; "
            "give more images or fewer --folds"
        )
    part = np.empty(len(rows), dtype=np.int64)
    for number, (_, inside) in enumerate(GroupKFold(folds).split(rows, groups=subjects)):
        part[inside] = number
    made_from = {
        "predictions": path.name,
        "run": about.run,
        "split": about.split,
        "tta": about.tta,
        "calibrated": calibrations(about),
        "labels": labels.name,
        "dataset": dataset.id,
        "uncertain": uncertain,
        "images": len(rows),
        "folds": folds,
    }
    return HeldOut(labels.findings, targets(labels, uncertain)[rows], table.values[:, places], part, made_from)


def cross_fit(
    data: HeldOut, learn: Callable[[np.ndarray, np.ndarray], T], use: Callable[[T, np.ndarray], np.ndarray]
) -> np.ndarray:
    """use(learn(truth, logits of the other parts), logits of a part) for each part, put together: [n, F]."""
    results = None
    for number in range(data.made_from["folds"]):
        inside = data.part == number
        result = use(learn(data.truth[~inside], data.logits[~inside]), data.logits[inside])
        if results is None:
            results = np.empty((len(data.part), result.shape[1]), dtype=result.dtype)
        results[inside] = result
    return results


def calibrations(about: Provenance) -> list[str]:
    """The calibrations that a table went through, in words."""
    return [text for text in about.history if text.startswith(CALIBRATED)]


def check_scale(path: Path, table: Predictions, findings: tuple[str, ...], made_from: dict, what: str) -> None:
    """Raises UserError if rules learnt from other findings, or on another scale of logits, are used on a table.

    what: "calibration" or "thresholds". A CSV does not say what was done to it, and is taken as it is.
    """
    for names, others, where in (
        (table.findings, findings, f"unknown to the {what}"),
        (findings, table.findings, f"in the {what}, but not in the table"),
    ):
        only = [name for name in names if name not in others]
        if only:
            raise UserError(f"{path}: finding {first_of(only)} is {where}; learn from predictions of the same findings")
    done, learnt = calibrations(table.provenance), made_from["calibrated"]
    says_nothing = replace(table.provenance, kind=None) == Provenance()
    if done != learnt and not says_nothing:
        raise UserError(
            f"{path}: its logits are {_in_words(done)}, those of {made_from['predictions']}, which taught the {what}, "
            f"are {_in_words(learnt)}; give tables that went through the same calibration"
        )


def _in_words(texts: list[str]) -> str:
    return ", then ".join(texts) if texts else "not calibrated"


def differences(about: Provenance, made_from: dict) -> list[str]:
    """What a user should know before using rules on a table, in words: that it is of another run or TTA."""
    notes = []
    source = made_from["predictions"]
    for name, what in (("run", "run"), ("tta", "test-time augmentation")):
        here, there = getattr(about, name), made_from[name]
        if None not in (here, there) and here != there:
            notes.append(f"{what} {here!r} here, {there!r} in {source}, from which the rules were learnt")
    return notes


def doubtful_split(made_from: dict) -> str:
    """A warning if nobody can tell whether the rules were learnt from images that were trained on, or if they were
    learnt from a split that is there to be scored; else ""."""
    name, split = made_from["predictions"], made_from["split"]
    if split is None:
        return f"{name} does not say which split it holds: images that were trained on look better"
    if split in ("dev", "test"):
        return f"{name} holds the {split} split: with rules learnt from it, its own scores flatter; learn from val"
    return ""


def read_rules(path: Path, parse: Callable[[dict], T], what: str, format_: int, way_out: str) -> T:
    """parse(JSON content) of a file of rules. Raises UserError for another format, or where `parse` raises."""
    try:
        stored = json.loads(path.read_bytes())
        if stored["format"] != format_:
            raise ValueError(f"format {stored['format']!r}, this cxrdali reads {format_}")
        made_from = stored["made_from"]
        for name in ("predictions", "run", "split", "tta", "calibrated", "folds"):
            made_from[name]
        if not isinstance(made_from["calibrated"], list):
            raise ValueError(f"calibrated {made_from['calibrated']!r} is no list")
        names = [row["finding"] for row in stored["findings"]]
        if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError("no finding, one that stands twice, or one without a name")
        return parse(stored)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {way_out}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: no {what} ({reason}); {way_out}") from error
