"""A table of predictions as a label release of its own: pseudo-labels, soft or called."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali import predictions as tables
from cxrdali.postprocess import thresholds
from cxrdali.predict.pseudo_options import PseudoOptions
from cxrdali.predictions import Kind, Predictions
from cxrdali.runs.reader import Run
from cxrdali.runs.seen import Seen, seen_by
from cxrdali.runs.seen_together import together
from shards.dataset.labels import PSEUDO_KEY, SEEN_KEY, Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.words import counted


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """table: by image_id, `split` (all train) and a column per finding, Int8 or Float32; metadata: of their file;
    known: labels that are given, of all."""

    findings: tuple[str, ...]
    table: pd.DataFrame
    metadata: dict[bytes, bytes]
    known: tuple[int, int]


def make(path: Path, dataset: PackedDataset, options: PseudoOptions, teachers: Sequence[Path] = ()) -> PseudoLabels:
    """Labels of a table of predictions of a pack's images.

    teachers: folders of the runs that predicted them, whose lists of images that they have seen are kept with them. Of
    a run of the table that is not among them, nobody knows what it has seen.

    Raises UserError for mean ranks, images that the pack does not have, another run, or thresholds that do not fit.
    """
    predicted = tables.read(path)
    tables.catalog_rows(predicted, path, dataset)
    about, seen = predicted.provenance, Seen()
    if about.kind == Kind.RANK:
        raise UserError(f"{path}: mean ranks are no probabilities; give the tables before they are pooled by rank")
    runs = [Run.open(folder) for folder in teachers]
    names = _runs(about.run)
    for run in runs:
        if about.run and run.name not in names:
            raise UserError(f"{run.path}: is not {about.run}, which predicted {path}; give the folder of its run")
        seen = together(seen, seen_by(run, dataset))
    if runs:
        absent = (name for name in names if name not in [run.name for run in runs])
        seen = replace(seen, unknown=(*seen.unknown, *absent))
    values = _values(path, predicted, options)
    found = {
        "how": options.how, "run": about.run or str(path), "labels": about.labels, "dataset": about.dataset,
        "tta": about.tta, "history": list(about.history),
    }  # fmt: skip
    kind = "Float32" if options.soft else "Int8"
    columns = {name: pd.array(values[:, place], dtype=kind) for place, name in enumerate(predicted.findings)}
    index = pd.Index(predicted.ids["image_id"], name="image_id")
    known = values.size if options.soft else int((values != Labels.UNKNOWN).sum())
    table = pd.DataFrame({"split": "train", **columns}, index=index)
    metadata = {PSEUDO_KEY: json.dumps(found).encode(), **({SEEN_KEY: seen.as_bytes()} if seen.runs else {})}
    return PseudoLabels(predicted.findings, table, metadata, (known, values.size))


def _runs(predicted_by: str | None) -> list[str]:
    """The names in a table's words: "A", "A + weights.safetensors", or "ensemble of A, B"."""
    each = (predicted_by or "").removeprefix("ensemble of ").split(", ")
    return [name for name in (text.partition(" + ")[0] for text in each) if name]


def _values(path: Path, predicted: Predictions, options: PseudoOptions) -> np.ndarray:
    """float32 [n, F], probabilities, or int8 [n, F]: 1, 0 and UNKNOWN."""
    if options.threshold is not None:
        logits = tables.as_logits(predicted, path)
        rules = thresholds.read_or_fixed(options.threshold, predicted.findings)
        called = rules.decide(path, logits, options.allow_other_run).astype(np.float64)
        none = [rule.finding for rule in rules.rules if rule.threshold is None]
        called[:, [name in none for name in predicted.findings]] = np.nan
        return np.where(np.isnan(called), Labels.UNKNOWN, called).astype(np.int8)
    probabilities = predicted.values if predicted.provenance.kind == Kind.PROBABILITY else None
    if probabilities is None:
        probabilities = tables.as_logits(predicted, path).as_probabilities().values
    if options.soft:
        return probabilities
    known = np.where(probabilities <= options.below, 0, Labels.UNKNOWN)
    return np.where(probabilities >= options.above, 1, known).astype(np.int8)


def words(made: PseudoLabels) -> str:
    known, of = made.known
    left = f", {of - known:,} of {of:,} not known" if known < of else ""
    return f"{counted(len(made.table), 'image')}, {counted(len(made.findings), 'finding')}{left}"
