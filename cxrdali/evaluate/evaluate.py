"""From a table of predictions and the labels to metrics with confidence intervals, all views and apart."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxrdali import predictions as tables
from cxrdali.data.targets import check_labelled, targets
from cxrdali.metrics.bootstrap import held, resample
from cxrdali.metrics.calibration_error import brier, ece
from cxrdali.metrics.decisions import METRICS, score_decisions
from cxrdali.metrics.ranking import macro, score
from cxrdali.postprocess.crossfit import CALIBRATED, differences
from cxrdali.postprocess.ensemble import RANKED
from cxrdali.postprocess.thresholds import Thresholds
from cxrdali.predictions import match
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import json_bytes, write_bytes

FINDING_COLUMNS = (
    "finding", "positives", "negatives", "prevalence",
    "AP", "AP_low", "AP_high", "AUROC", "AUROC_low", "AUROC_high",
    "ECE", "Brier", "threshold", *METRICS,
)  # fmt: skip


@dataclass(frozen=True)
class EvaluateOptions:
    """draws: bootstrap draws over studies (0: no intervals); level: of the intervals, 0 to 1; uncertain: negative,
    positive or ignore."""

    draws: int = 1000
    level: float = 0.95
    seed: int = 0
    uncertain: str = "negative"

    def __post_init__(self):
        if self.draws < 0:
            raise UserError(f"draws {self.draws}: 0 or more")
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: 0 or more")
        if not 0 < self.level < 1:
            raise UserError(f"level {self.level}: between 0 and 1")


def evaluate(
    path: Path,
    dataset: PackedDataset,
    labels: Labels,
    options: EvaluateOptions,
    thresholds: Thresholds | None = None,
) -> dict:
    """Metrics as plain JSON values (undefined ones None): of all images, and of frontal and lateral ones apart.

    "lateral" is the paper's sense: every view that is not frontal. Findings are matched by name; an image that
    the dataset does not have, or that the label release does not list, is an error. With thresholds, which need a
    table of logits, also F1, precision, recall (= sensitivity) and specificity of the decisions. Mean ranks (of an
    ensemble by rank) are no probabilities: their ECE and Brier score are undefined.
    """
    table = tables.read(path)
    rows, places = match(path, table, dataset, labels)
    check_labelled(labels, rows, str(path))
    truth = targets(labels, options.uncertain)[rows]
    values = table.values[:, places]
    kind = _kind(path, table)
    if _is_ranked(table.provenance):
        kind, probabilities = "rank", None
    else:
        probabilities = tables.sigmoid(values) if kind == "logit" else values
    called = None if thresholds is None else thresholds.decide(path, tables.as_logits(table, path))[:, places]
    catalog = dataset.catalog.iloc[rows]
    study = pd.factorize(catalog["subject_id"] + "/" + catalog["study_id"])[0]
    frontal = (catalog["view"] == "frontal").to_numpy()
    parts = {"all": np.ones(len(rows), dtype=bool), "frontal": frontal, "lateral": ~frontal}
    result = {
        "predictions": path.name,
        "run": table.provenance.run,
        "split": table.provenance.split,
        "labels": labels.name,
        "uncertain": options.uncertain,
        "values": kind,
        "thresholds": None if thresholds is None else _about(thresholds, table.provenance),
        "images": len(rows),
        "studies": int(study.max()) + 1,
        "level": options.level,
        "draws": options.draws,
    }
    total = options.draws * sum(bool(mask.any()) for mask in parts.values())
    with tqdm(total=total, unit=" draws", desc="bootstrap", disable=None if total else True) as bar:
        for name, mask in parts.items():
            done = bar.n
            result[name] = _part(
                labels.findings,
                truth[mask],
                values[mask],
                study[mask],
                options,
                lambda n, done=done: bar.update(done + n - bar.n),
            )
            if result[name] is not None:
                decided = None if called is None else (called[mask], thresholds)
                chances = None if probabilities is None else probabilities[mask]
                _add_probabilities(result[name], truth[mask], chances, decided)
    return result


def write(result: dict, out: Path) -> tuple[Path, Path]:
    """OUT.json with everything and OUT.csv with a row per view and finding; returns both paths."""
    json_path, csv_path = out.with_name(out.name + ".json"), out.with_name(out.name + ".csv")
    write_bytes(json_path, json_bytes(result))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ("view", *FINDING_COLUMNS), lineterminator="\n")
    writer.writeheader()
    for view in ("all", "frontal", "lateral"):
        for row in (result[view] or {"findings": []})["findings"]:
            writer.writerow({"view": view, **row})
    write_bytes(csv_path, buffer.getvalue().encode())
    return json_path, csv_path


def _part(findings, truth, values, study, options: EvaluateOptions, progress) -> dict | None:
    if not len(truth):
        return None
    scores = score(findings, truth, values)
    part = {
        "images": len(truth),
        "studies": len(np.unique(study)),
        "mAP": scores.macro_ap,
        "macro_AUROC": scores.macro_auroc,
        "LRAP": scores.lrap,
        "without_positives": scores.without_positives,
    }
    columns = {
        "finding": list(findings),
        "positives": scores.positives.tolist(),
        "negatives": scores.negatives.tolist(),
        "prevalence": (scores.positives / np.maximum(scores.positives + scores.negatives, 1)).tolist(),
        "AP": scores.ap.tolist(),
        "AUROC": scores.auroc.tolist(),
    }
    if options.draws:
        draws = resample(truth, values, study, options.draws, options.seed, progress)
        measures = (("AP", "mAP", draws.ap, scores.ap), ("AUROC", "macro_AUROC", draws.auroc, scores.auroc))
        for name, column, drawn, observed in measures:
            low, high = draws.interval(drawn, options.level)
            columns[f"{name}_low"], columns[f"{name}_high"] = low.tolist(), high.tolist()
            macros = np.array([macro(row) for row in held(drawn, observed)])
            low, high = draws.interval(macros, options.level)
            part[f"{column}_low"], part[f"{column}_high"] = float(low), float(high)
    part = {key: _defined(value) for key, value in part.items()}
    part["findings"] = [
        {name: _defined(columns[name][place]) if name in columns else None for name in FINDING_COLUMNS}
        for place in range(len(findings))
    ]
    return part


def _kind(path: Path, table: tables.Predictions) -> str:
    """logit or probability. A CSV does not say: it holds logits if a value leaves 0..1."""
    within = bool(((table.values >= 0) & (table.values <= 1)).all())
    kind = table.provenance.kind or ("probability" if within else "logit")
    if kind == "probability" and not within:
        raise UserError(f"{path}: holds probabilities, but a value is outside 0..1; predict again")
    return kind


def _is_ranked(about: tables.Provenance) -> bool:
    """Whether the values are mean ranks, which are no probabilities until a calibration makes them some."""
    steps = [text for text in about.history if text.startswith((RANKED, CALIBRATED))]
    return bool(steps) and steps[-1].startswith(RANKED)


def _about(thresholds: Thresholds, provenance: tables.Provenance) -> dict:
    """What the result says about the thresholds; remarks: what its reader should know."""
    made_from = thresholds.made_from
    remarks = differences(provenance, made_from) if made_from else []
    here = (provenance.run, provenance.split)
    if made_from and None not in here and here == (made_from["run"], made_from["split"]):
        remarks.append("learnt from these images: F1 looks better than on others")
    never = [rule.finding for rule in thresholds.rules if rule.threshold is None]
    return {
        "strategy": thresholds.strategy,
        "predictions": made_from.get("predictions"),
        "run": made_from.get("run"),
        "split": made_from.get("split"),
        "without_threshold": never,
        "remarks": remarks,
    }


def _add_probabilities(
    part: dict, truth: np.ndarray, probabilities: np.ndarray | None, decided: tuple[np.ndarray, Thresholds] | None
) -> None:
    """Adds to a part, and to its findings, what needs probabilities (None: there are none) or decisions instead of an
    order."""
    undefined = np.full(truth.shape[1], np.nan)
    measures = {"ECE": ece, "Brier": brier}
    columns = {
        name: undefined if probabilities is None else measure(truth, probabilities)
        for name, measure in measures.items()
    }
    if decided is not None:
        called, thresholds = decided
        scores = score_decisions(truth, called)
        columns |= {name: getattr(scores, name) for name in METRICS}
        by_name = {rule.finding: rule.threshold for rule in thresholds.rules}
        for row in part["findings"]:
            row["threshold"] = by_name[row["finding"]]
    for name, values in columns.items():
        part[f"macro_{name}"] = _defined(macro(values))
        for row, value in zip(part["findings"], values.tolist(), strict=True):
            row[name] = _defined(value)


def _defined(value):
    """JSON has no NaN: an undefined metric is null."""
    return None if isinstance(value, float) and math.isnan(value) else value
