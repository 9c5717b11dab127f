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
from cxrdali.bootstrap import resample
from cxrdali.metrics import macro, score
from cxrdali.targets import check_labelled, targets
from shards.errors import DataError
from shards.files import json_bytes, write_bytes
from shards.packed import Labels, PackedDataset

FINDING_COLUMNS = (
    "finding", "positives", "negatives", "prevalence",
    "AP", "AP_low", "AP_high", "AUROC", "AUROC_low", "AUROC_high",
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
            raise DataError(f"draws {self.draws}: 0 or more")
        if self.seed < 0:
            raise DataError(f"seed {self.seed}: 0 or more")
        if not 0 < self.level < 1:
            raise DataError(f"level {self.level}: between 0 and 1")


def evaluate(
    path: Path, dataset: PackedDataset, labels: Labels, options: EvaluateOptions, progress: bool = True
) -> dict:
    """Metrics as plain JSON values (undefined ones None): of all images, and of frontal and lateral ones apart.

    "lateral" is the paper's sense: every view that is not frontal. Findings are matched by name; an image that
    the dataset does not have, or that the label release does not list, is an error.
    """
    table = tables.read(path)
    rows, places = match(path, table, dataset, labels)
    check_labelled(labels, rows, str(path))
    truth = targets(labels, options.uncertain)[rows]
    values = table.values[:, places]
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
        "images": len(rows),
        "studies": int(study.max()) + 1,
        "level": options.level,
        "draws": options.draws,
    }
    total = options.draws * sum(bool(mask.any()) for mask in parts.values())
    with tqdm(total=total, unit=" draws", desc="bootstrap", disable=not progress or not total) as bar:
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


def match(
    path: Path, table: tables.Predictions, dataset: PackedDataset, labels: Labels
) -> tuple[np.ndarray, list[int]]:
    """Catalog rows of the table's images, and its columns in the order of the labels' findings."""
    rows = tables.catalog_rows(table, path, dataset)
    unlisted = [row for row in rows if labels.split[row] is None]
    if unlisted:
        image = dataset.catalog["image_id"].iloc[unlisted[0]]
        raise DataError(
            f"{path}: image {image!r} (and {len(unlisted) - 1} more) is not in labels {labels.name!r}; "
            "predict a split of these labels, or choose others with --labels"
        )
    differing = sorted(set(table.findings) ^ set(labels.findings))
    if differing:
        where = "the predictions" if differing[0] in table.findings else f"labels {labels.name!r}"
        raise DataError(f"{path}: finding {differing[0]!r} is only in {where}; choose the labels it was trained on")
    return rows, [table.findings.index(name) for name in labels.findings]


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
        for name, column, drawn in (("AP", "mAP", draws.ap), ("AUROC", "macro_AUROC", draws.auroc)):
            low, high = draws.interval(drawn, options.level)
            columns[f"{name}_low"], columns[f"{name}_high"] = low.tolist(), high.tolist()
            macros = np.array([macro(row) for row in drawn])
            low, high = draws.interval(macros, options.level)
            part[f"{column}_low"], part[f"{column}_high"] = float(low), float(high)
    part = {key: _defined(value) for key, value in part.items()}
    part["findings"] = [
        {name: _defined(columns[name][place]) if name in columns else None for name in FINDING_COLUMNS}
        for place in range(len(findings))
    ]
    return part


def _defined(value):
    """JSON has no NaN: an undefined metric is null."""
    return None if isinstance(value, float) and math.isnan(value) else value
