"""Precision-recall and ROC curves per finding: of an evaluation, and of a run's validation images."""

from collections.abc import Mapping, Sequence

from cxrdali import predictions as tables
from cxrdali.data.targets import targets
from cxrdali.metrics.curves import counts
from cxrdali.report.kit.page import Figure
from cxrdali.report.training import plots
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of
from shards.dataset.dataset import Dataset
from shards.errors import UserError


def figures(name: str, rows: Sequence[Mapping], curves: Mapping[str, Mapping | None]) -> dict | None:
    """The two figures, the most frequent finding first; None if no finding has a curve.

    Args:
        name: Keeps the ids of a page's drawings apart.
        rows: finding, positives, negatives, AP and AUROC of each finding.
        curves: Of `cxrdali.metrics.curves.counts`, by finding.
    """
    shown = [{**row, **found} for row in rows if (found := curves.get(row["finding"]))]
    if not shown:
        return None
    keys = ("finding", "positives", "negatives", "AP", "AUROC", "true_positives", "false_positives")
    shown = [{key: row[key] for key in keys} for row in sorted(shown, key=lambda row: -row["positives"])]
    return {
        "precision_recall": Figure(f"{name}-precision-recall", plots.precision_recall, (shown,)),
        "roc": Figure(f"{name}-roc", plots.roc, (shown,)),
        "without": [row["finding"] for row in rows if not curves.get(row["finding"])],
    }


def of_validation(run: Run, dataset: Dataset | None) -> dict:
    """Curves of a run's best epoch on its validation images, or what is missing for them."""
    about = {"run": run.name, "images": run.selection.get("val_images")}
    if dataset is None:
        return about | {"missing": "Precision-recall and ROC curves need the labels; give the dataset with `--data`."}
    try:
        table, labels = tables.read(run.val_predictions), labels_of(run, dataset)
        rows, places = tables.match(run.val_predictions, table, dataset, labels)
    except UserError as error:
        return about | {"missing": f"No precision-recall and ROC curves: {error}"}
    if run.labels_sha256 not in (None, labels.sha256):
        return about | {"missing": f"No precision-recall and ROC curves: labels {labels.name} have changed since."}
    truth = targets(labels, run.settings.data.uncertain)[rows]
    curves = {
        name: counts(truth[:, place], table.values[:, column])
        for place, (name, column) in enumerate(zip(labels.findings, places, strict=True))
    }
    found = figures("validation", run.best_findings.reset_index().to_dict("records"), curves)
    return about | (found or {"missing": "No finding has both a positive and a negative validation image."})
