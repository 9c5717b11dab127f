"""What a model card says, as plain data: copied from the JSON and CSV of the run and its evaluations, counted in its
pack, and nothing else. What is not known is None."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrdali.data.splits import group_codes, released_rows, subject_is
from cxrdali.evaluate.remarks import resampled
from cxrdali.export.check import run_rows_of
from cxrdali.fitted import in_words
from cxrdali.postprocess.calibration import Calibration
from cxrdali.postprocess.rules import Rules, differences
from cxrdali.postprocess.thresholds import Thresholds
from cxrdali.predict.judge import Judge
from cxrdali.report.kit.page import plain
from cxrdali.report.training.folder import read_evaluation
from cxrdali.runs.layout import CONFIG
from cxrdali.runs.names import flatten
from cxrdali.runs.reader import Run, has_begun
from cxrdali.runs.settings import PATHS
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

log = logging.getLogger(__name__)

MEANS = ("mAP", "macro_AUROC", "macro_ECE", "macro_Brier", "macro_F1", "macro_recall", "macro_specificity")
SCORES = ("AP", "AUROC", "ECE", "F1", "recall", "specificity")
ENDS = ("", "_low", "_high")
AGES = (0.05, 0.5, 0.95)  # quantiles: the youngest and the oldest could be found again


def facts(judge: Judge, dataset: PackedDataset | None = None, evaluations: Sequence[Path] = ()) -> dict[str, Any]:
    """Everything that a card of this run, with these rules, says, as JSON's types.

    evaluations: what `cxrdali evaluate` wrote of it; without, those in its folder.

    Raises UserError if the dataset is not the run's, or a file is no evaluation of this run.
    """
    run, fitted = judge.run, [each for each in (judge.calibration, judge.rules) if each and each.made_from]
    scored = [_evaluation(run, path) for path in evaluations] or list(_beside(run))
    said = [run.config.get("synthetic"), dataset and dataset.synthetic, *(each["synthetic"] for each in scored)]
    found = {
        "run": run.name,
        "synthetic": any(said),
        "findings": run.findings,
        "data": _data(run),
        "pack": dataset and _pack(run, dataset),
        "settings": {name: _named(name, value) for name, value in flatten(run.config["settings"]).items()},
        "training": _training(run),
        "lineage": list(_lineage(run)),
        "validation": _validation(run),
        "evaluations": scored,
        "calibration": judge.calibration and _calibration(judge.calibration),
        "thresholds": judge.rules and _thresholds(judge.rules),
        "remarks": [text for each in fitted for text in differences(judge.provenance, each.made_from)],
    }
    return plain(found)


def _named(setting: str, value: object) -> object:
    """Of a path its name alone: where it was on a machine is nobody's business."""
    return Path(str(value)).name if setting in PATHS and value else value


def _data(run: Run) -> dict:
    packed, fold = run.config["dataset"].get("packed"), run.fold
    counts = {name: run.selection.get(name) for name in ("train_images", "val_images", "subjects_on_both_sides")}
    return {"labels": run.labels, "dataset": run.dataset_id, "packed": packed, **counts} | {
        "fold": f"{fold.fold} of {fold.folds}, by {fold.group}{fold.how}"
    }


def _training(run: Run) -> dict:
    """best_epoch None: of a run that kept its weights alone."""
    progress = run.progress if has_begun(run.path) else None
    reached = {name: progress and getattr(progress, name) for name in ("epoch", "epochs", "best_epoch")}
    known = {name: run.config.get(name) for name in ("precision", "began", "versions")}
    return {**reached, "chosen_by": run.chosen_by, "device": run.device, **known}


def _lineage(run: Run) -> Iterator[dict]:
    """The run, the one whose weights it began with, and so on, as far as their folders are found."""
    known, now = set(), run
    while now.path.resolve() not in known:
        known.add(now.path.resolve())
        yield {
            "run": now.name, "arch": now.setting("arch"), "size": now.setting("size"), "labels": now.labels,
            "train_images": now.selection.get("train_images"), "epochs": now.setting("epochs"),
            "starts_from": now.origin, "init_sha256": now.config.get("init_sha256"),
        }  # fmt: skip
        init = Path(now.setting("init", ""))
        folder = init.parent if init.suffix else init
        places = (folder, now.path.resolve().parent / folder.name)  # a folder of runs may have moved
        found = next((each for each in places if now.setting("init") and (each / CONFIG).is_file()), None)
        if found is None:
            return
        try:
            now = Run.open(found.resolve())
        except UserError as error:
            log.info(f"note: {error}: what {now.name} began with is named, and no more")
            return


def _validation(run: Run) -> dict | None:
    """Scores of the best epoch; None of a run that kept its weights alone."""
    if not len(run.metrics):
        return None
    best, table = run.best, run.best_findings
    counts = run.train_positives if "train_positives" in run.config else {}
    rows: list[dict] = [{"finding": name, "train_positives": counts.get(name)} for name in run.findings]
    for row in rows:
        if row["finding"] in table.index:
            row |= table.loc[row["finding"], ["positives", "negatives", "AP", "AUROC"]].to_dict()
    return {"epoch": best["epoch"], **{name: best[name] for name in ("mAP", "macro_AUROC", "LRAP")}, "findings": rows}


def _beside(run: Run) -> Iterator[dict]:
    """Evaluations in the run's folder; those of other tables (a calibrated one, an ensemble) are named and left."""
    for path in sorted(run.path.glob("*.metrics.json")):
        try:
            yield _evaluation(run, path)
        except UserError as error:
            log.info(f"note: left out of the card: {error}")


def _evaluation(run: Run, path: Path) -> dict:
    content = read_evaluation(path).content
    if content.get("run") != run.name:
        of = f"of {content['run']!r}" if content.get("run") else "of a table that names no run"
        raise UserError(f"{path}: is an evaluation {of}, not of {run.name!r}; evaluate what `cxrdali predict` wrote of it")
    parts = {view: _part(content[view]) for view in ("all", "frontal", "lateral") if content.get(view)}
    about = ("split", "labels", "uncertain", "values", "level", "draws", "unit", "history", "seen", "thresholds")
    return {
        "file": path.name,
        **{name: content.get(name) for name in about},
        "synthetic": content.get("synthetic", False),
        "fitted": in_words(content),
        "intervals": resampled(content) if content.get("draws") and content.get("unit") else None,
        **parts,
    }


def _part(part: Mapping) -> dict:
    kept = ["images", "studies", "patients", "LRAP", *(f"{name}{end}" for name in MEANS for end in ENDS)]
    rows = ["finding", "positives", *(f"{name}{end}" for name in SCORES for end in ENDS)]
    groups = {name: {f"mAP{end}": each.get(f"mAP{end}") for end in ENDS} for name, each in (part["groups"] or {}).items()}
    findings = [{name: each.get(name) for name in rows} for each in part["findings"]]
    return {**{name: part.get(name) for name in kept}, "groups": groups, "findings": findings}


def _calibration(found: Calibration) -> dict:
    content = found.content()
    names = [f"macro_{name}_{when}" for name in ("ECE", "Brier") for when in ("before", "after")]
    kept = sum(bool(rule.kept) for rule in found.rules)
    return {"method": found.method, **{name: content[name] for name in names}, "kept": kept, **_origin(found)}


def _thresholds(found: Thresholds) -> dict:
    names = ("finding", "probability", "F1", "precision", "recall", "specificity")
    rows = [{name: each[name] for name in names} for each in found.content()["findings"]]
    return {"strategy": found.strategy, "findings": rows, **_origin(found)}


def _origin(found: Rules) -> dict:
    return {name: found.made_from.get(name) for name in ("predictions", "split", "images", "folds")}


def _pack(run: Run, dataset: PackedDataset) -> dict:
    """Counts of the run's own training and validation images, and of the released development and test images."""
    labels = dataset.labels(run.labels)
    train, val = run_rows_of(run, dataset)
    rows = {"train": train, "val": val, **{name: released_rows(dataset, labels, name) for name in ("dev", "test")}}
    known = subject_is(dataset) == "patient"
    groups = {"studies": group_codes(dataset, "study")}
    groups |= {"patients": group_codes(dataset, "subject")} if known else {}
    return {
        "release": dataset.info.get("release"),
        "splits": {
            name: {
                "images": len(its),
                "patients": None,
                **{group: len(np.unique(codes[its])) for group, codes in groups.items()},
                "views": _counts(dataset, its, "view"),
                "sex": _counts(dataset, its, "sex") if dataset.has("sex") else None,
                "age": _ages(dataset, its) if dataset.has("age") else None,
            }
            for name, its in rows.items()
            if len(its)
        },
    }


def _counts(dataset: PackedDataset, rows: np.ndarray, column: str) -> dict[str, int]:
    values = dataset.of_rows(rows, column)[column].fillna("").replace("", "not recorded")
    return {name: int(images) for name, images in values.value_counts().sort_index().items()}


def _ages(dataset: PackedDataset, rows: np.ndarray) -> dict[str, float | None]:
    """Years of images whose age is known; None without any."""
    values = dataset.of_rows(rows, "age")["age"].dropna()
    found = values.quantile(list(AGES)).tolist() if len(values) else [None] * len(AGES)
    return {**dict(zip(("low", "median", "high"), found, strict=True)), "unknown": len(rows) - len(values)}
