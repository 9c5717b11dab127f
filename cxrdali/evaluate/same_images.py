"""Runs that can be compared: read, and checked for the same validation images, findings, labels and dataset."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxrdali import predictions as tables
from cxrdali.data.splits import rows_sha256
from cxrdali.predictions import match
from cxrdali.runs.layout import CONFIG
from cxrdali.runs.listing import run_folders
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import MAY_DIFFER
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError


@dataclass(frozen=True)
class Comparable:
    """Runs that share labels and validation images. rows: int64 [n], catalog rows of these, ascending; uncertain: what
    -1 counts as; notes: what a reader must know of runs that were left out."""

    runs: tuple[Run, ...]
    labels: Labels
    rows: np.ndarray
    uncertain: str
    notes: tuple[str, ...]


def read_comparable(paths: Sequence[Path], dataset: PackedDataset, uncertain: str | None) -> Comparable:
    """`paths`: run folders, or folders of runs; a run is called by its folder. uncertain: None for the runs' own.

    Raises UserError if fewer than two have a finished epoch, or if they are not of one dataset, one release of
    labels and one set of validation images.
    """
    runs, notes = _read(paths)
    check_same_dataset(runs, dataset)
    labels = _same_labels(runs, dataset)
    _check_same_images(runs)
    table = runs[0].val_predictions
    rows = np.sort(match(table, tables.read(table), dataset, labels)[0])
    return Comparable(tuple(runs), labels, rows, uncertain or _same_uncertain(runs), tuple(notes))


def best_logits(run: Run, dataset: PackedDataset, labels: Labels, rows: np.ndarray) -> np.ndarray:
    """The best epoch's logits in these rows and the labels' findings: float32 [n, F]. `rows`: ascending.

    Raises UserError if the table is not of the images that the run validated on.
    """
    table = tables.as_logits(tables.read(run.val_predictions), run.val_predictions)
    its_rows, columns = match(run.val_predictions, table, dataset, labels)
    order = np.argsort(its_rows)
    if rows_sha256(its_rows[order]) != val_sha256(run) or not np.array_equal(its_rows[order], rows):
        raise UserError(
            f"{run.val_predictions}: holds other images than its run validated on; restore it, or train the run again"
        )
    return table.values[order][:, columns]


def val_sha256(run: Run) -> str | None:
    """The fingerprint of its validation images."""
    return run.selection.get("val_sha256")


def train_counts(run: Run, labels: Labels) -> tuple[list[int], int]:
    """Training images with each finding, in the labels' order, and training images; both before any resampling."""
    return [run.train_positives[name] for name in labels.findings], run.needed("selection", "train_images")


def caveats(runs: Sequence[Run]) -> list[str]:
    """What a reader must know of the runs that are compared."""
    said = [
        f"{run.name}: {len(run.metrics)} of {run.progress.epochs} epochs are done; compared by the best of these"
        for run in runs
        if not run.progress.finished
    ]
    for what, of in (
        ("The best epoch was not chosen by the same metric", lambda run: run.chosen_by),
        ("Speed and hours were measured on different devices", lambda run: run.device),
    ):
        values = list(dict.fromkeys(map(of, runs)))
        if len(values) > 1:
            each = "; ".join(f"{value}: {', '.join(run.name for run in runs if of(run) == value)}" for value in values)
            said.append(f"{what} ({each})")
    return said


def differing_settings(runs: Sequence[Run]) -> list[dict]:
    """Settings that decide about the samples or the recipe and are not the same in all runs: name, value by run."""
    settings, rows = {run.name: run.settings.flat() for run in runs}, []
    for name in dict.fromkeys(name for its in settings.values() for name in its):
        values = {run: its.get(name) for run, its in settings.items()}
        if name not in MAY_DIFFER and len(set(map(repr, values.values()))) > 1:
            rows.append({"setting": name, "values": values})
    return rows


# ---------------------------------------------------------------- reading and checking


def _read(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Runs with a finished epoch, and which others were left out."""
    listed = [run_folders(path) for path in paths]
    runs = [Run.open(path) for path in dict.fromkeys(path for inside, _ in listed for path in inside)]
    folders = [run.path.resolve().name for run in runs]
    often = Counter(folders)
    named = [
        replace(run, name=folder if often[folder] == 1 else str(run.path))
        for run, folder in zip(runs, folders, strict=True)
    ]
    found = [run for run in named if len(run.metrics)]
    notes = [f"{run.name}: left out, no epoch is finished yet" for run in named if not len(run.metrics)]
    notes += [f"{path.name}: left out, no run (no {CONFIG} in it)" for _, without in listed for path in without]
    if len(found) < 2:
        given = ", ".join(map(str, paths))
        if not found:
            raise UserError(f"{given}: no run with a finished epoch; train two at least, then compare")
        raise UserError(
            f"{given}: only {found[0].name} has a finished epoch, and one run has nothing to be compared with; give "
            "another, or make its page with `cxrdali report`"
        )
    return found, notes


def check_same_dataset(runs: Sequence[Run], dataset: PackedDataset) -> None:
    """Raises UserError for a run of another one: its labels and images would stand beside the wrong numbers."""
    for run in runs:
        if run.dataset_id != dataset.id:
            raise UserError(
                f"{run.path}: was trained on dataset {run.dataset_id}, {dataset.root} is {dataset.id}; give the "
                "dataset of the runs with --data"
            )


def _same_labels(runs: Sequence[Run], dataset: PackedDataset) -> Labels:
    """The labels that all were trained on, which must still be the same."""
    first = runs[0]
    for run in runs[1:]:
        only = sorted(set(first.findings) ^ set(run.findings))
        if only:
            where = first if only[0] in first.findings else run
            more = f" (and {len(only) - 1} more)" if only[1:] else ""
            raise UserError(
                f"{run.path}: other findings than {first.path}: {only[0]!r}{more} is only in {where.name}; compare "
                "runs of the same labels"
            )
        if run.labels != first.labels:
            raise UserError(
                f"{run.path}: was trained on labels {run.labels!r}, {first.path} on {first.labels!r}; compare runs of "
                "the same labels"
            )
    labels = dataset.labels(first.labels)
    for run in runs:
        if run.labels_sha256 not in (None, labels.sha256):
            raise UserError(
                f"{run.path}: labels {labels.name!r} of {dataset.root} are not those that it was trained on; attach "
                "those, or train it again"
            )
    return labels


def _check_same_images(runs: Sequence[Run]) -> None:
    parts = [
        ", ".join(run.name for run in runs if val_sha256(run) == each) for each in dict.fromkeys(map(val_sha256, runs))
    ]
    if len(parts) > 1:
        raise UserError(
            f"these runs validated on different images, so their scores do not compare: {' against '.join(parts)}; "
            "compare within one of these, or train with the same fold, folds, group and limit-batches"
        )


def _same_uncertain(runs: Sequence[Run]) -> str:
    first = runs[0].settings.data.uncertain
    for run in runs[1:]:
        its = run.settings.data.uncertain
        if its != first:
            raise UserError(
                f"{run.path}: uncertain labels counted as {its} in training, as {first} in {runs[0].path}; say with "
                "--uncertain what they are to count as in all"
            )
    return first
