"""Runs and tables that can be compared: read, and checked for the same images, findings, labels and dataset."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from cxrdali import predictions as tables
from cxrdali.data.options import FoldOptions
from cxrdali.data.splits import rows_sha256
from cxrdali.data.targets import Targets, targets
from cxrdali.evaluate.options import CompareOptions, EvaluateOptions
from cxrdali.fitted import here
from cxrdali.postprocess.aligned import Shared, aligned, check_map, of_places
from cxrdali.postprocess.crossfit import check_not_trained_on
from cxrdali.predictions import Kind, match
from cxrdali.runs.layout import CONFIG
from cxrdali.runs.listing import run_folders
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of, run_rows
from cxrdali.runs.seen import seen_by
from cxrdali.runs.settings import MAY_DIFFER
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.words import counted


@dataclass(frozen=True, eq=False)
class Side:
    """One of those compared. path: a run folder, or a table of predictions (run: None); split and labels: what its
    predictions are of (None: unknown); fitted: what was fitted on the images that it is compared by; shared: its
    findings and the labels', if they differ."""

    name: str
    path: Path
    run: Run | None
    split: str | None
    labels: str | None
    fitted: tuple[str, ...]
    shared: Shared | None = None

    @property
    def table(self) -> Path:
        return self.path if self.run is None else self.run.val_predictions

    def own(self, findings: Sequence[str]) -> list[str]:
        """What it calls these findings of the labels."""
        names = {called: name for name, called in self.shared.same.items()} if self.shared else {}
        return [names.get(name, name) for name in findings]


@dataclass(frozen=True)
class Comparable:
    """Runs and tables that share labels and images. labels, truth: of the findings that all have in common; rows:
    int64 [n], catalog rows of the images, ascending; split: theirs (None: unknown); uncertain: what -1 counts as;
    notes: what a reader must know of runs that were left out."""

    sides: tuple[Side, ...]
    labels: Labels
    truth: Targets
    rows: np.ndarray
    split: str | None
    uncertain: str
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[Run]:
        return [side.run for side in self.sides if side.run is not None]


def read_comparable(
    paths: Sequence[Path], dataset: Dataset, options: CompareOptions, labels: str | None = None
) -> Comparable:
    """`paths`: run folders, folders of runs, or tables of predictions (.parquet, .csv); each is called by its folder,
    or by its file without suffix. labels: None for those of runs and tables.

    Raises UserError if fewer than two can be compared, if they are not of one dataset, one release of labels and one
    set of images, or if one of them was trained on these (unless the options allow it).
    """
    sides, notes = _read(paths, options)
    runs = [side.run for side in sides if side.run is not None]
    check_same_dataset(runs, dataset)
    scored_by = _labels(sides, dataset, labels)
    _check_same_images(runs)
    split = _same_split(sides)
    sides, places = _in_common(sides, scored_by, options.findings)
    whole, scored_by = scored_by, of_places(scored_by, places)
    rows = _same_rows(sides, dataset, scored_by)
    notes += _seen(sides, dataset, scored_by, rows, options.allow_leak)
    uncertain = options.uncertain
    if uncertain is None:
        uncertain = _same_uncertain(runs) if runs else EvaluateOptions().uncertain
    truth = targets(whole, uncertain).of(places)
    return Comparable(tuple(sides), scored_by, truth, rows, split, uncertain, tuple(notes))


def logits(side: Side, dataset: Dataset, labels: Labels, rows: np.ndarray) -> tuple[np.ndarray, Kind]:
    """A table's values (a run's: of its best epoch) in these rows and the labels' findings: float32 [n, F], on the
    scale of logits; and what they are. `rows`: ascending.

    Raises UserError if a run's table is not of the images that it validated on.
    """
    table = tables.as_logits(read_side(side, labels), side.table)
    its_rows, columns = match(side.table, table, dataset, labels)
    order = np.argsort(its_rows)
    changed = side.run is not None and rows_sha256(its_rows[order]) != val_sha256(side.run)
    if changed or not np.array_equal(its_rows[order], rows):
        raise UserError(
            f"{side.table}: holds other images than its run validated on; restore it, or train the run again"
        )
    return table.values[order][:, columns], table.provenance.kind


def read_side(side: Side, labels: Labels) -> tables.Predictions:
    """Its table with the labels' findings alone, as these call them."""
    table = tables.read(side.table)
    return replace(table.of(side.own(labels.findings)), findings=labels.findings)


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


def _read(paths: Sequence[Path], options: CompareOptions) -> tuple[list[Side], list[str]]:
    """Tables and runs with a finished epoch, in the order given, and which others were left out."""
    listed = {path: ([path], []) if _is_table(path) else run_folders(path) for path in paths}
    inside = dict.fromkeys(each for those, _ in listed.values() for each in those)
    opened = {path: None if _is_table(path) else Run.open(path) for path in inside}
    short = {path: path.stem if run is None else run.path.resolve().name for path, run in opened.items()}
    often = Counter(short.values())
    names = {path: name if often[name] == 1 else str(path) for path, name in short.items()}
    done = {path: run for path, run in opened.items() if run is None or len(run.metrics)}
    found = [_side(names[path], path, run, options) for path, run in done.items()]
    notes = [f"{names[path]}: left out, no epoch is finished yet" for path in opened if path not in done]
    without = [path for _, those in listed.values() for path in those]
    notes += [f"{path.name}: left out, no run (no {CONFIG} in it)" for path in without]
    if len(found) < 2:
        given = ", ".join(map(str, paths))
        if not found:
            raise UserError(f"{given}: no run with a finished epoch; train two at least, then compare")
        if found[0].run is None:
            raise UserError(f"{given}: one table has nothing to be compared with; give another, or `cxrdali evaluate`")
        raise UserError(
            f"{given}: only {found[0].name} has a finished epoch, and one run has nothing to be compared with; give "
            "another, or make its page with `cxrdali report`"
        )
    return found, notes


def _is_table(path: Path) -> bool:
    return path.suffix in (".parquet", ".csv") and not path.is_dir()


def _side(name: str, path: Path, run: Run | None, options: CompareOptions) -> Side:
    table = tables.read(path if run is None else run.val_predictions)
    about = table.provenance
    fitted = here(table.fitted, table.ids, about.split)
    if run is not None:
        return Side(name, path, replace(run, name=name), "val", run.labels, fitted.words)
    check_not_trained_on(path, about, options.allow_leak)
    fitted.check(path, options.allow_same_images)
    return Side(name, path, None, about.split, about.labels, fitted.words)


def _seen(sides: Sequence[Side], dataset: Dataset, labels: Labels, rows: np.ndarray, allow_leak: bool) -> list[str]:
    """Which sides were trained on how many of the images. Raises UserError if a run was, unless that is allowed."""
    notes = []
    for side in sides:
        if side.run is None:
            leak = tables.read(side.path).provenance.seen
        else:
            found = seen_by(side.run, dataset)
            leak = found.among(dataset, labels, rows, side.run.fold.group, "validation images")
        if leak and side.run is not None and not allow_leak:
            raise UserError(
                f"{side.path}: {leak[0]}, so its score does not compare; compare runs that have not seen them, or say "
                "--allow-leak"
            )
        notes += [f"{side.name}: {text}" for text in leak or ()]
    return notes


def _labels(sides: Sequence[Side], dataset: Dataset, wanted: str | None) -> Labels:
    """Those of the runs, else those asked for, else those that the tables name, which must be the same."""
    runs = [side.run for side in sides if side.run is not None]
    found = _same_labels(runs, dataset) if runs else None
    if found is not None and wanted not in (None, found.name):
        raise UserError(f"labels {wanted!r}: {runs[0].path} was trained on {found.name!r}; leave --labels out")
    if wanted is None and (differing := _differing(sides, "labels")):
        first, other = differing
        raise UserError(
            f"{other.path}: is of labels {other.labels!r}, {first.path} of {first.labels!r}; compare those of the same "
            "labels, or tables with --labels, by which to score all"
        )
    named = [side.labels for side in sides if side.labels is not None]
    return found or dataset.labels(wanted or (named[0] if named else None))


def _in_common(sides: Sequence[Side], labels: Labels, names: str | None) -> tuple[list[Side], list[int]]:
    """The sides with what they share with the labels, and the places of the findings that all of them have.

    Raises UserError if there is none.
    """
    read = [tables.read(side.table) for side in sides]
    check_map(names, {labels.name: labels.findings, **{str(place): each.findings for place, each in enumerate(read)}})
    pairs = zip(sides, read, strict=True)
    found = [aligned(side.table, each, labels, names, by_labels=True, pack=labels.name) for side, each in pairs]
    places = sorted(set.intersection(*(set(each.places) for each in found)))
    if not places:
        raise UserError(
            f"labels {labels.name!r}: each of the tables knows some of their findings, but none is known to all; "
            "compare fewer at a time"
        )
    return [replace(side, shared=each.shared) for side, each in zip(sides, found, strict=True)], places


def _same_split(sides: Sequence[Side]) -> str | None:
    if differing := _differing(sides, "split"):
        first, other = differing
        why = "a run is compared by its validation images" if first.run or other.run else "these do not compare"
        raise UserError(
            f"{other.path}: is of split {other.split!r}, {first.path} of {first.split!r}, and {why}; give tables of "
            "one split, which `cxrdali predict --split` writes"
        )
    return next((side.split for side in sides if side.split is not None), None)


def _differing(sides: Sequence[Side], name: str) -> tuple[Side, Side] | None:
    """The first two in which a field is known and not the same."""
    known = [side for side in sides if getattr(side, name) is not None]
    return next(((known[0], side) for side in known if getattr(side, name) != getattr(known[0], name)), None)


def _same_rows(sides: Sequence[Side], dataset: Dataset, labels: Labels) -> np.ndarray:
    """The catalog rows of all images, ascending. Runs among themselves were checked before."""
    first, *others = sides
    rows = np.sort(match(first.table, read_side(first, labels), dataset, labels)[0])
    for side in others if first.run is None else [side for side in others if side.run is None]:
        its = np.sort(match(side.table, read_side(side, labels), dataset, labels)[0])
        if not np.array_equal(its, rows):
            raise UserError(
                f"{side.table}: its {counted(len(its), 'image')} are not the {len(rows):,} of {first.table} "
                f"({len(np.intersect1d(its, rows)):,} are in both), so their scores do not compare; predict the same "
                "split of the same labels and fold"
            )
    return rows


def check_same_dataset(runs: Sequence[Run], dataset: Dataset) -> None:
    """Raises UserError for a run of another one: its labels and images would stand beside the wrong numbers."""
    for run in runs:
        if run.dataset_id != dataset.id:
            run_rows(run, dataset, labels_of(run, dataset), "; give the dataset of the runs with --data")


def _same_labels(runs: Sequence[Run], dataset: Dataset) -> Labels:
    """The labels that all were trained on, which must still be the same."""
    if len(dataset.parts) == 1 and (several := next((run for run in runs if run.packs), None)):
        how = f"--run {several.path} --data {dataset.root} --split val --out {several.name}.parquet"
        raise UserError(
            f"{several.path}: was trained on several packs, and --data is one; compare tables instead: "
            f"`cxrdali predict {how}`, and so of each run"
        )
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
            run_rows(run, dataset, labels, "; attach those, or train it again")
    return labels


def _check_same_images(runs: Sequence[Run]) -> None:
    parts = [
        ", ".join(run.name for run in runs if val_sha256(run) == each) for each in dict.fromkeys(map(val_sha256, runs))
    ]
    if len(parts) > 1:
        rule = ", ".join(field.name.replace("_", "-") for field in fields(FoldOptions))
        raise UserError(
            f"these runs validated on different images, so their scores do not compare: {' against '.join(parts)}; "
            f"compare within one of these, or train with the same {rule} and limit-batches"
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
