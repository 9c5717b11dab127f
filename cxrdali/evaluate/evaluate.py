"""From a table of predictions and the labels to metrics with confidence intervals, all views and apart.

Everything is in the result, plain JSON values (undefined ones None):

    predictions, run, split, history, labels, uncertain, values, thresholds, synthetic, images, studies, patients
    level, draws, unit          of the intervals; unit: what is sampled, "patient" ("study" or "image": none are known)
    fewest_patients             with a finding, or without it, for an interval
    curves                      of each finding: counts at thresholds (cxrdali.metrics.curves), all views
    seen                        sentences on how many of the images were trained on (None: not known)
    hashes                      which images these are (cxrdali.fitted)
    fitted_here                 what was fitted on these images (cxrdali.fitted), so that scores are too good
    fitted_unknown              what was fitted on images that nobody knows
    without_training            findings that count in mAP though no training image has them
    groups                      how frequent each finding is in training: rule, train_images, train_positives (and home:
                                the run that these are of, if it was trained on another dataset)
    common                      if predictions and labels have other findings (cxrdali.postprocess.aligned.Shared): all
                                is of those that they have in common, by the predictions' names
    groups_by                   scores of groups of images (cxrdali.evaluate.by_group; None: not asked for)
    all, frontal, lateral       a part each (None without an image):
        images, studies, patients, LRAP, without_positives, without_negatives
        mAP, macro_AUROC, ...   means over findings, and the ends of their intervals, mAP_low, mAP_high, ...
        mAP_without_one         lowest and highest mAP without any one finding, and without which
        pooled_ECE, ...         of the flattened table; ECE_floor: what perfect probabilities show (calibration_error)
        groups                  the same means over head, medium and tail: {"head": {"findings": [...], "mAP": ...}}
        findings                a row each: FINDING_COLUMNS

"lateral" is every view that is not frontal, as in Yamagishi & Hanaoka (2023).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cxrdali import predictions as tables
from cxrdali.data.splits import group_codes, group_ids, released_rows, subject_is
from cxrdali.data.targets import Targets, check_labelled, counts, ranked, targets
from cxrdali.evaluate.by_group import groups_by
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.fitted import THRESHOLDS, here, sketch
from cxrdali.metrics import curves
from cxrdali.metrics.bootstrap import Images, resample
from cxrdali.metrics.calibration_error import KINDS, brier, errors
from cxrdali.metrics.decisions import METRICS, score_decisions
from cxrdali.metrics.intervals import ENOUGH, Sampled, without_one
from cxrdali.metrics.longtail import GROUPS, RULE, groups, without_training
from cxrdali.metrics.ranking import Scores, defined, macro, score
from cxrdali.postprocess.aligned import aligned
from cxrdali.postprocess.crossfit import check_unseen
from cxrdali.postprocess.rules import differences, fitted
from cxrdali.postprocess.thresholds import Thresholds
from cxrdali.predictions import Kind, match
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.progress import progress_bar
from shards.storage.files import cannot_write, write_bytes
from shards.storage.for_people import guarded_rows
from shards.storage.sealed import sealed_json
from shards.storage.sidecar import beside, write_with_hash

PARTS = ("all", "frontal", "lateral")
FINDING_COLUMNS = (
    "finding", "positives", "positive_patients", "negatives", "negative_patients", "prevalence",
    "AP", "AP_low", "AP_high", "AUROC", "AUROC_low", "AUROC_high",
    "ECE", "ECE_low", "ECE_high", *list(KINDS)[1:], "Brier", "Brier_low", "Brier_high",
    "threshold", "F1", "F1_low", "F1_high", *METRICS[1:], "group", "train_positives",
)  # fmt: skip
# the name of the mean over findings, by the name that a finding's own score has
MEANS = {"AP": "mAP", **{name: f"macro_{name}" for name in ("AUROC", *KINDS, "Brier", *METRICS)}}


def evaluate(
    path: Path, dataset: Dataset, labels: Labels, options: EvaluateOptions, thresholds: Thresholds | None = None
) -> dict:
    """Metrics of a table of predictions, as the module describes them.

    Findings are matched by name; if they are not the same ones, those in common are scored. Mean ranks (of an ensemble
    by rank) are no probabilities: their ECE and Brier score are undefined. Head, medium and tail are by the images that
    the run was trained on if these are of another dataset, else by the labels' training split in this one; without
    either there are none.

    Args:
        dataset: That `path`, the table, was predicted on; `labels` is one of its releases.
        thresholds: With them also F1, precision, recall (= sensitivity) and specificity of the decisions; the table
            then holds logits.

    Raises:
        UserError: An image that the dataset does not have or the labels do not list, no finding in common, images that
            were released without labels; or, unless allowed, that were trained on (but for split train), or dev or test
            images that something was fitted to.
    """
    table = tables.of_view(tables.read(path), path, dataset, options.view)
    both = aligned(path, table, labels, options.findings)
    both.tell()
    truth = targets(labels, options.uncertain).of(both.places)
    table, labels = both.table, both.labels
    about = table.provenance
    check_unseen(path, about, options.allow_leak or about.split == "train")
    rows, places = match(path, table, dataset, labels)
    check_labelled(labels, rows, str(path))
    values, kind = table.values[:, places], _kind(path, table)
    allow, on_these = options.allow_other_run, _fitted(path, table, thresholds, options.allow_same_images)
    called = thresholds and thresholds.decide(path, tables.as_logits(table, path), allow)[:, places]
    probabilities = tables.sigmoid(values) if kind == Kind.LOGIT else None if kind == Kind.RANK else values
    values = ranked(values, labels, rows)
    study = group_codes(dataset, "study")[rows]
    patient = np.unique(group_ids(dataset, "subject")[rows], return_inverse=True)[1]  # whatever the order of packing
    images = Images(truth[rows], values, patient, probabilities, called)
    train_rows = released_rows(dataset, labels, "train")
    frequency = _at_home(labels, about) or _frequency(labels, truth, train_rows)
    result = {
        "predictions": path.name,
        **{"run": about.run, "split": about.split, "seen": about.seen and list(about.seen)},
        "history": list(about.history),
        **on_these,
        **{"labels": labels.name, "uncertain": options.uncertain, "values": kind},
        "thresholds": None if thresholds is None else _about(thresholds, about, labels.findings),
        "without_training": _without_training(table, labels, truth, rows, train_rows),
        "groups": frequency,
        **({"common": asdict(both.shared)} if both.shared else {}),
        **{"synthetic": dataset.synthetic, "images": len(rows)},
        "studies": len(np.unique(study)),
        "patients": len(np.unique(images.patient)),
        **{"unit": subject_is(dataset), "fewest_patients": ENOUGH, "level": options.level, "draws": options.draws},
    }
    columns = zip(labels.findings, images.truth.T, values.T, strict=True)
    result["curves"] = {name: curves.counts(truth, value) for name, truth, value in columns}
    result["groups_by"] = groups_by(images, dataset, rows, labels.findings, options)
    frontal = (dataset.of_rows(rows, "view")["view"] == "frontal").to_numpy()
    parts = {"all": np.ones(len(rows), dtype=bool), "frontal": frontal, "lateral": ~frontal}
    return result | _parts(images, parts, study, _known(labels, frequency, thresholds), options)


def write(result: dict, out: Path) -> tuple[Path, Path]:
    """OUT.json with everything and OUT.csv, with its hash beside it; returns both paths. An old OUT.csv is removed
    first, so a kill leaves none beside an OUT.json of other numbers.

    The CSV has a row per view and finding, and after a view's findings its means: rows without a finding, whose `group`
    is all, head, medium or tail, and whose AP, AUROC, ECE ... are the means over that group's findings. Where only
    common findings are scored, `in_labels` has the labels' names, and at the end, without scores, stands what is left
    out.
    """
    json_path, csv_path = out.with_name(out.name + ".json"), out.with_name(out.name + ".csv")
    rows = []
    for view, part in ((view, result[view]) for view in PARTS if result[view] is not None):
        rows += [{"view": view, **row} for row in part["findings"]]
        rows += [
            {"view": view, "group": group, **_as_columns(means)}
            for group, means in {"all": part, **(part["groups"] or {})}.items()
        ]
    # objects: as numbers, a column with a blank would turn whole numbers into fractions
    if common := result.get("common"):
        rows += [
            {"finding": name, "group": f"left out, {only.replace('_', ' ')}"}
            for only in ("only_predictions", "only_labels")
            for name in common[only]
        ]
        rows = [{**row, "in_labels": common["same"].get(row.get("finding"))} for row in rows]
    columns = ["view", *FINDING_COLUMNS, *(["in_labels"] if common else [])]
    table = pd.DataFrame(guarded_rows(rows), columns=columns, dtype=object)
    try:
        for path in (csv_path, beside(csv_path)):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(csv_path, error) from error
    write_bytes(json_path, sealed_json(result))
    about = {name: result[name] for name in ("split", "hashes") if result.get(name)}
    write_with_hash(csv_path, table.to_csv(index=False, lineterminator="\n").encode(), json.dumps(about))
    return json_path, csv_path


def _as_columns(means: Mapping) -> dict:
    """Means by the name of the column of which they are the mean."""
    ends = [(name + end, mean + end) for name, mean in MEANS.items() for end in ("", "_low", "_high")]
    return {column: means[mean] for column, mean in ends if mean in means}


def _fitted(path: Path, table: tables.Predictions, thresholds: Thresholds | None, allow: bool) -> dict:
    """Which images these are, and what was fitted on them. Raises UserError if that makes their scores worthless."""
    limits = [fitted(THRESHOLDS, thresholds.made_from)] if thresholds and thresholds.made_from else []
    found = here([*table.fitted, *limits], table.ids, table.provenance.split)
    found.check(path, allow)
    return {"hashes": sketch(table.ids), "fitted_here": list(found.words), "fitted_unknown": list(found.unknown)}


def _frequency(labels: Labels, truth: Targets, train_rows: np.ndarray) -> dict | None:
    """What the result says of how frequent findings are in training; None without training images."""
    if not len(train_rows):
        return None
    positives = counts(truth, train_rows)[0].tolist()
    by_finding = dict(zip(labels.findings, positives, strict=True))
    return {"rule": RULE, "train_images": len(train_rows), "train_positives": by_finding}


def _at_home(labels: Labels, about: tables.Provenance) -> dict | None:
    """The same of a run that was trained on another dataset; None if it was not."""
    if about.home is None:
        return None
    known = dict(about.home.positives)
    by_finding = {name: known[name] for name in labels.findings}
    return {"rule": RULE, "train_images": about.home.images, "train_positives": by_finding, "home": about.run}


def _without_training(
    table: tables.Predictions, labels: Labels, truth: Targets, rows: np.ndarray, train_rows: np.ndarray
) -> list[str]:
    """By the training split without these images: validation is held out of it. None of it is known without one."""
    scored = np.minimum(*counts(truth, rows)).tolist()
    if at_home := _at_home(labels, table.provenance):
        return without_training(labels.findings, scored, list(at_home["train_positives"].values()))
    if table.provenance.split not in ("train", "all"):
        train_rows = np.setdiff1d(train_rows, rows)
    trained = counts(truth, train_rows)[0].tolist()
    return without_training(labels.findings, scored, trained) if len(train_rows) else []


def _known(labels: Labels, frequency: dict | None, thresholds: Thresholds | None) -> dict[str, list]:
    """Columns of the findings' rows that do not depend on the images."""
    known = {"finding": list(labels.findings)}
    if frequency is not None:
        known["train_positives"] = list(frequency["train_positives"].values())
        known["group"] = groups(known["train_positives"], frequency["train_images"])
    if thresholds is not None:
        by_name = {rule.finding: rule.threshold for rule in thresholds.rules}
        known["threshold"] = [by_name.get(name) for name in labels.findings]
    return known


def _parts(
    images: Images, parts: Mapping[str, np.ndarray], study: np.ndarray, known: Mapping[str, list],
    options: EvaluateOptions,
) -> dict:  # fmt: skip
    """By view; parts: which images, bool [n]; study: int [n], of each image. None without an image."""
    found: dict = {}
    total = options.draws * sum(bool(mask.any()) for mask in parts.values())
    with progress_bar("bootstrap", total, " samples", hidden=not total) as bar:
        for name, mask in parts.items():
            found[name] = _part(images.where(mask), known, options, bar) if mask.any() else None
            if mask.any():
                found[name]["studies"] = len(np.unique(study[mask]))
    return found


def _part(images: Images, known: Mapping[str, list], options: EvaluateOptions, bar: tqdm) -> dict:
    """All, frontal or lateral images: at least one."""
    names = known["finding"]
    scores = score(tuple(names), images.truth, images.values)
    measured, sampled = _measured(images, scores), {}
    if options.draws:
        sampled = resample(images, scores, options.draws, options.seed, bar.update)
    columns = {
        **known,
        "positives": scores.positives.tolist(),
        "positive_patients": images.patients(1),
        "negatives": scores.negatives.tolist(),
        "negative_patients": images.patients(0),
        "prevalence": (scores.positives / np.maximum(scores.positives + scores.negatives, 1)).tolist(),
        **{name: list(map(defined, values)) for name, values in measured.items()},
    }
    for name, values in sampled.items():
        ends = [values.finding(place, options.level) for place in range(len(names))]
        columns |= {f"{name}_low": [each.low for each in ends], f"{name}_high": [each.high for each in ends]}

    means = partial(_means, names, measured, sampled, options.level)
    group = np.array(known.get("group", []))
    by_group = {
        name: {"findings": np.array(names)[group == name].tolist(), **means(group == name)}
        for name in GROUPS
        if len(group)
    }
    return {
        "images": len(images.truth),
        "patients": len(np.unique(images.patient)),
        **means(np.ones(len(names), dtype=bool)),
        **({} if images.probabilities is None else errors(images.truth, images.probabilities)),
        "LRAP": defined(scores.lrap),
        "without_positives": scores.without_positives,
        "without_negatives": scores.without_negatives,
        "groups": by_group or None,
        "findings": [
            {name: columns[name][place] if name in columns else None for name in FINDING_COLUMNS}
            for place in range(len(names))
        ],
    }


def _measured(images: Images, scores: Scores) -> dict[str, np.ndarray]:
    """Every score of MEANS that the images allow, by name: float64 [F], NaN where undefined."""
    undefined = np.full(len(scores.findings), np.nan)
    measured = {"AP": scores.ap, "AUROC": scores.auroc}
    for name, measure in (*KINDS.items(), ("Brier", brier)):
        measured[name] = undefined if images.probabilities is None else measure(images.truth, images.probabilities)
    if images.called is not None:
        decided = score_decisions(images.truth, images.called)
        measured |= {name: getattr(decided, name) for name in METRICS}
    return measured


def _means(
    names: Sequence[str], measured: Mapping[str, np.ndarray], sampled: Mapping[str, Sampled], level: float,
    places: np.ndarray,
) -> dict:  # fmt: skip
    """Means over the findings at `places`, bool [F], with intervals if there are samples, and mAP without any one."""
    means: dict = {}
    for name, values in measured.items():
        means[MEANS[name]] = defined(macro(values[places]))
        if name in sampled:
            means |= sampled[name].mean(places, level).as_json(MEANS[name])
    means["mAP_without_one"] = without_one(np.where(places, measured["AP"], np.nan), names)
    return means


def _kind(path: Path, table: tables.Predictions) -> str:
    """logit, probability or rank. A CSV does not say: it holds logits if a value leaves 0..1."""
    within = bool(((table.values >= 0) & (table.values <= 1)).all())
    kind = table.provenance.kind or (Kind.PROBABILITY if within else Kind.LOGIT)
    if kind == Kind.PROBABILITY and not within:
        raise UserError(f"{path}: holds probabilities, but a value is outside 0..1; predict again")
    return str(Kind.LOGIT if kind == Kind.CALIBRATED else kind)


def _about(thresholds: Thresholds, provenance: tables.Provenance, findings: Sequence[str]) -> dict:
    """What the result says about the thresholds; remarks: what its reader should know."""
    made_from = thresholds.made_from
    remarks = differences(provenance, made_from) if made_from else []
    if unknown := [name for name in findings if name not in thresholds.findings]:
        remarks.append(f"unknown to the thresholds, so without F1 and all else of them: {', '.join(unknown)}")
    never = [rule.finding for rule in thresholds.rules if rule.threshold is None and rule.finding in findings]
    return {
        "strategy": thresholds.strategy,
        "predictions": made_from.get("predictions"),
        "run": made_from.get("run"),
        "split": made_from.get("split"),
        "without_threshold": never,
        "remarks": remarks,
    }
