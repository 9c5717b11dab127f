"""Runs that can be compared: read, and checked for the same validation images, findings, labels and dataset."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxrdali import predictions as tables
from cxrdali.data.splits import rows_sha256, train_and_validation
from cxrdali.data.targets import targets
from cxrdali.predictions import match
from cxrdali.report.training.sources import ReportOptions, read_sources
from cxrdali.runs import folder as runs_on_disk
from cxrdali.runs.names import flatten
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
    _check_same_dataset(runs, dataset)
    labels = _same_labels(runs, dataset)
    _check_same_images(runs)
    rows = np.sort(match(_table(runs[0]), tables.read(_table(runs[0])), dataset, labels)[0])
    return Comparable(tuple(runs), labels, rows, uncertain or _same_uncertain(runs), tuple(notes))


def _table(run: Run) -> Path:
    return run.path / runs_on_disk.VAL_PREDICTIONS


def best_logits(run: Run, dataset: PackedDataset, labels: Labels, rows: np.ndarray) -> np.ndarray:
    """The best epoch's logits in these rows and the labels' findings: float32 [n, F]. `rows`: ascending.

    Raises UserError if the table is not of the images that the run validated on.
    """
    table = tables.as_logits(tables.read(_table(run)), _table(run))
    its_rows, columns = match(_table(run), table, dataset, labels)
    order = np.argsort(its_rows)
    if rows_sha256(its_rows[order]) != val_sha256(run) or not np.array_equal(its_rows[order], rows):
        raise UserError(
            f"{_table(run)}: holds other images than its run validated on; restore it, or train the run again"
        )
    return table.values[order][:, columns]


def val_sha256(run: Run) -> str | None:
    """The fingerprint of its validation images."""
    return run.config.get("selection", {}).get("val_sha256")


def is_finished(run: Run) -> bool:
    """Whether all its epochs are done, or it ended early by its patience."""
    state = {"epoch": len(run.metrics), "best_epoch": int(run.best["epoch"])}
    return runs_on_disk.is_finished(state, run.settings)


def train_counts(run: Run, dataset: PackedDataset, labels: Labels) -> tuple[list[int], int]:
    """Training images with each finding, in the labels' order, and training images; both before any resampling."""
    stored = run.config.get("train_positives")
    if stored is not None:
        by_name = dict(zip(run.config["findings"], stored, strict=True))
        return [by_name[name] for name in labels.findings], run.config["selection"]["train_images"]
    train, _ = train_and_validation(dataset, labels, run.fold)  # a run from before it was noted
    wanted = targets(labels, run.setting("uncertain", "negative"))[train]
    return (wanted == 1).sum(axis=0).tolist(), len(train)


def device_of(run: Run) -> str:
    """What a run began on: "2 x NVIDIA H100" with two processes."""
    device, processes = run.config.get("device", "unknown"), run.config.get("processes", 1)
    return f"{processes} x {device}" if processes > 1 else str(device)


def caveats(runs: Sequence[Run]) -> list[str]:
    """What a reader must know of the runs that are compared."""
    said = [
        f"{run.name}: {len(run.metrics)} of {run.setting('epochs')} epochs are done; compared by the best of these"
        for run in runs
        if not is_finished(run)
    ]
    for what, of in (
        ("The best epoch was not chosen by the same metric", lambda run: run.chosen_by),
        ("Speed and hours were measured on different devices", device_of),
    ):
        values = list(dict.fromkeys(map(of, runs)))
        if len(values) > 1:
            each = "; ".join(f"{value}: {', '.join(run.name for run in runs if of(run) == value)}" for value in values)
            said.append(f"{what} ({each})")
    return said


def differing_settings(runs: Sequence[Run]) -> list[dict]:
    """Settings that decide about the samples or the recipe and are not the same in all runs: name, value by run."""
    rows = []
    settings = {run.name: flatten(run.config["settings"]) for run in runs}
    for name in dict.fromkeys(name for given in settings.values() for name in given):
        values = {run: given.get(name) for run, given in settings.items()}
        if name not in MAY_DIFFER and len(set(map(repr, values.values()))) > 1:
            rows.append({"setting": name, "values": values})
    return rows


# ---------------------------------------------------------------- reading and checking


def _read(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Runs with a finished epoch, and which others were left out."""
    sources = read_sources(paths, None, (), ReportOptions("comparison"))
    folders = [run.path.resolve().name for run in sources.runs]
    often = Counter(folders)
    named = [
        replace(run, name=folder if often[folder] == 1 else str(run.path))
        for run, folder in zip(sources.runs, folders, strict=True)
    ]
    found = [run for run in named if len(run.metrics)]
    notes = [f"{run.name}: left out, no epoch is finished yet" for run in named if not len(run.metrics)]
    notes += [f"{path.name}: left out, no run (no {runs_on_disk.CONFIG} in it)" for path in sources.unread]
    if len(found) < 2:
        given = ", ".join(map(str, paths))
        if not found:
            raise UserError(f"{given}: no run with a finished epoch; train two at least, then compare")
        raise UserError(
            f"{given}: only {found[0].name} has a finished epoch, and one run has nothing to be compared with; give "
            "another, or make its page with `cxrdali report`"
        )
    return found, notes


def _check_same_dataset(runs: Sequence[Run], dataset: PackedDataset) -> None:
    for run in runs:
        trained_on = run.config["dataset"]["id"]
        if trained_on != dataset.id:
            raise UserError(
                f"{run.path}: was trained on dataset {trained_on}, {dataset.root} is {dataset.id}; give the dataset "
                "of the runs with --data"
            )


def _same_labels(runs: Sequence[Run], dataset: PackedDataset) -> Labels:
    """The labels that all were trained on, which must still be the same."""
    first = runs[0]
    for run in runs[1:]:
        only = sorted(set(first.config["findings"]) ^ set(run.config["findings"]))
        if only:
            where = first if only[0] in first.config["findings"] else run
            more = f" (and {len(only) - 1} more)" if only[1:] else ""
            raise UserError(
                f"{run.path}: other findings than {first.path}: {only[0]!r}{more} is only in {where.name}; compare "
                "runs of the same labels"
            )
        one, other = (each.config["labels"]["name"] for each in (first, run))
        if one != other:
            raise UserError(
                f"{run.path}: was trained on labels {other!r}, {first.path} on {one!r}; compare runs of the same labels"
            )
    labels = dataset.labels(first.config["labels"]["name"])
    for run in runs:
        if run.config["labels"].get("sha256") not in (None, labels.sha256):
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
    first = runs[0].setting("uncertain", "negative")
    for run in runs[1:]:
        its = run.setting("uncertain", "negative")
        if its != first:
            raise UserError(
                f"{run.path}: uncertain labels counted as {its} in training, as {first} in {runs[0].path}; say with "
                "--uncertain what they are to count as in all"
            )
    return first
