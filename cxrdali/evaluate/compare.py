"""Runs and tables of predictions side by side on the images that they share: scores, groups of findings, speed, and
whether a difference is more than chance would make of these images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali.data.splits import group_codes, released_rows
from cxrdali.data.targets import check_labelled, targets
from cxrdali.data.targets import counts as count_targets
from cxrdali.evaluate import same_images
from cxrdali.evaluate.options import CompareOptions
from cxrdali.evaluate.same_images import Comparable, Side, train_counts
from cxrdali.fitted import in_words
from cxrdali.metrics.bootstrap import Samples, difference, interval, resample, sampled_macro
from cxrdali.metrics.calibration_error import brier, ece
from cxrdali.metrics.longtail import GROUPS, groups, without_training
from cxrdali.metrics.ranking import Scores, defined, macro, score
from cxrdali.postprocess import thresholds
from cxrdali.postprocess.options import FitOptions
from cxrdali.predictions import Kind, sigmoid
from cxrdali.runs.layout import METRICS
from cxrdali.runs.reader import Run
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.progress import progress_bar
from shards.storage.files import write_bytes
from shards.storage.for_people import guarded_rows
from shards.storage.sealed import sealed_json
from shards.words import choices

TESTED = ("mAP", *(f"mAP_{group}" for group in GROUPS), "macro_AUROC")
_Value = tuple[float, np.ndarray | None]  # a score, and what it is on every sample of the studies
ENOUGH = 10  # studies with a finding; a bootstrap of fewer knows too few of them to say how others would score


@dataclass(frozen=True)
class _Images:
    """What all are scored on. truth: float32 [n, F]; study: int64 [n]; of each finding its group ("": no training
    images) and how many training images have it."""

    truth: np.ndarray
    study: np.ndarray
    group: np.ndarray
    train_positives: Sequence[int]

    def columns(self, name: str) -> np.ndarray:
        """bool [F]: the findings that one of TESTED is a mean over."""
        if name.startswith("mAP_"):
            return self.group == name.removeprefix("mAP_")
        return np.ones(len(self.group), dtype=bool)

    def mean(self, name: str, scores: Scores, samples: Samples | None) -> _Value:
        """One of TESTED."""
        measure, columns = "auroc" if name == "macro_AUROC" else "ap", self.columns(name)
        observed = getattr(scores, measure)[columns]
        return macro(observed), samples and sampled_macro(getattr(samples, measure)[:, columns], observed)

    def positive_studies(self, columns: np.ndarray) -> int:
        """Studies with a positive image of one of these findings, bool [F]."""
        return len(np.unique(self.study[(self.truth[:, columns] == 1).any(axis=1)]))


@dataclass(frozen=True)
class _Scored:
    """A table, or a run's best epoch. samples: of every finding, on the same samples of the studies for all (None: no
    draws); means: by name of TESTED."""

    side: Side
    values: np.ndarray
    kind: Kind
    scores: Scores
    samples: Samples | None
    means: dict[str, _Value]


def compare(
    runs: Sequence[Path], dataset: PackedDataset, options: CompareOptions, label_release: str | None = None
) -> dict:
    """Plain JSON values (undefined ones None) of each table, and of each run's best epoch on its validation images.

    Args:
        runs: Run folders, folders of runs, and tables of predictions, of the same images.
        label_release: Only for tables; None for the one that they name.

    Raises:
        UserError: Fewer than two have an epoch, or two of them have different images, findings, labels or datasets.
    """
    comparable = same_images.read_comparable(runs, dataset, options, label_release)
    labels, rows = comparable.labels, comparable.rows
    check_labelled(labels, rows, "the images")
    base_side = _baseline(comparable.sides, options.baseline)
    counts, train_images = _train_counts(base_side, dataset, comparable)
    catalog = dataset.catalog.iloc[rows]
    images = _Images(
        targets(labels, comparable.uncertain)[rows],
        pd.factorize(catalog["subject_id"] + "/" + catalog["study_id"])[0],
        np.array(groups(counts, train_images) if train_images else [""] * len(counts)),
        counts,
    )
    scored = _score(comparable, dataset, images, options)
    base = next(each for each in scored if each.side is base_side)
    positive_studies = {name: images.positive_studies(images.columns(name)) for name in TESTED}
    return {
        "dataset": dataset.id,
        "synthetic": dataset.synthetic,
        "labels": labels.name,
        "uncertain": comparable.uncertain,
        "split": comparable.split,
        "images": len(rows),
        "studies": len(np.unique(images.study)),
        "subjects": len(np.unique(group_codes(dataset, "subject")[rows])),
        "train_images": train_images,
        "baseline": base_side.name,
        "draws": options.draws,
        "level": options.level,
        "seed": options.seed,
        "folds": options.folds,
        "groups": {name: np.array(labels.findings)[images.group == name].tolist() for name in GROUPS},
        "positive_studies": positive_studies,
        "fewest_positive_studies": ENOUGH,
        "without_positives": base.scores.without_positives,
        "without_training": without_training(labels.findings, base.scores.positives, counts) if train_images else [],
        "notes": [
            *comparable.notes,
            *same_images.caveats(comparable.runs),
            *(_other_counts(comparable, counts) if base_side.run else ()),
            *_thin_findings(base.scores, images),
        ],
        "settings": same_images.differing_settings(comparable.runs),
        "runs": [_run_row(each, images, dataset, comparable, options) for each in scored],
        "differences": _differences(scored, base, positive_studies, options.level),
        "findings": [_finding_row(place, scored, base, images, options.level) for place in range(len(labels.findings))],
    }


def _differences(scored: Sequence[_Scored], base: _Scored, studies: dict[str, int], level: float) -> list[dict]:
    return [
        {
            "run": each.side.name,
            "metric": name,
            **_difference(each.means[name], base.means[name], studies[name], level),
        }
        for each in scored
        if each is not base
        for name in TESTED
    ]


def write(result: dict, json_path: Path) -> list[Path]:
    """NAME.json with everything, NAME.csv with a row per run, NAME.findings.csv with one per finding and run."""
    by_run = {row["name"]: {} for row in result["runs"]}
    for row in result["differences"]:
        name = f"{row['metric']}_difference"
        by_run[row["run"]] |= {name: row["difference"], **{f"{name}_{key}": row[key] for key in ("low", "high", "p")}}
    counted = ("finding", "group", "train_positives", "positives", "positive_studies", "prevalence")
    per_finding = [
        {**{key: row[key] for key in counted}, "run": name, "AP": row["AP"][name], **row["differences"].get(name, {})}
        for row in result["findings"]
        for name in by_run
    ]
    contents = {
        json_path: sealed_json(result),
        json_path.with_suffix(".csv"): _csv(
            [{**row, **by_run[row["name"]], "fitted_here": in_words(row)} for row in result["runs"]]
        ),
        json_path.with_suffix(".findings.csv"): _csv(per_finding),
    }
    for path, content in contents.items():
        write_bytes(path, content)
    return list(contents)


def _csv(rows: Sequence[dict]) -> bytes:
    # objects: as numbers, a column with a blank would turn whole numbers into fractions
    return pd.DataFrame(guarded_rows(rows), dtype=object).to_csv(index=False, lineterminator="\n").encode()


def scored_images(result: dict) -> str:
    """What the images are, in words: "validation images"."""
    split = result.get("split", "val")  # without: written when there were only runs
    return f"{'validation' if split == 'val' else split} images" if split else "images"


def _baseline(sides: Sequence[Side], wanted: str | None) -> Side:
    if wanted is None:
        return sides[0]
    for side in sides:
        if wanted == side.name or Path(wanted).resolve() == side.path.resolve():
            return side
    raise UserError(f"baseline {wanted!r}: is none of the runs; {choices(wanted, [side.name for side in sides])}")


def _train_counts(base: Side, dataset: PackedDataset, comparable: Comparable) -> tuple[list[int], int]:
    """Of the baseline's own training images; of a table, the labels' training split, as in `evaluate`."""
    if base.run is not None:
        return train_counts(base.run, comparable.labels)
    rows = released_rows(dataset, comparable.labels, "train")
    return count_targets(targets(comparable.labels, comparable.uncertain), rows)[0].tolist(), len(rows)


def _other_counts(comparable: Comparable, counts: Sequence[int]) -> list[str]:
    return [
        f"{run.name}: was trained on other images than the baseline, whose counts make head, medium and tail"
        for run in comparable.runs
        if train_counts(run, comparable.labels)[0] != counts
    ]


def _thin_findings(scores: Scores, images: _Images) -> list[str]:
    """A bootstrap samples the few studies with a rare finding again and again, and never another one."""
    columns = np.eye(len(scores.findings), dtype=bool)
    counts = [images.positive_studies(column) for column in columns]
    thin = [f"{name} ({few})" for name, few in zip(scores.findings, counts, strict=True) if 0 < few < ENOUGH]
    if not thin:
        return []
    return [
        f"Findings in the means with fewer than {ENOUGH} studies: {', '.join(thin)}. Intervals of means "
        "know only these few, so they are too narrow"
    ]


def _score(comparable: Comparable, dataset: PackedDataset, images: _Images, options: CompareOptions) -> list[_Scored]:
    """Each by itself, all on the same samples of the studies."""
    labels, scored = comparable.labels, []
    total = options.draws * len(comparable.sides)
    with progress_bar("bootstrap", total, " samples", hidden=not total) as bar:
        for side in comparable.sides:
            values, kind = same_images.logits(side, dataset, labels, comparable.rows)
            scores = score(labels.findings, images.truth, values)
            if side.run is not None:
                _check_best(side.run, scores, comparable.uncertain)
            samples = None
            if options.draws:
                samples = resample(images.truth, values, images.study, options.draws, options.seed, bar.update)
            means = {name: images.mean(name, scores, samples) for name in TESTED}
            scored.append(_Scored(side, values, kind, scores, samples, means))
    return scored


def _check_best(run: Run, scores: Scores, uncertain: str) -> None:
    """Raises UserError if the table is not that of the epoch that metrics.csv calls the best."""
    here, there = scores.macro_ap, run.best["mAP"]
    if uncertain == run.setting("uncertain", "negative") and not np.isclose(here, there, equal_nan=True):
        raise UserError(
            f"{run.val_predictions}: has a mAP of {here:.4f}, {METRICS} says "
            f"{there:.4f} for epoch {run.best['epoch']:.0f}; if the run is training now, compare again, else run the "
            "same `cxrdali train` again, which mends what a kill left"
        )


def _run_row(
    each: _Scored, images: _Images, dataset: PackedDataset, comparable: Comparable, options: CompareOptions
) -> dict:
    chances = sigmoid(each.values)
    decided = thresholds.fit(
        each.side.table, dataset, comparable.labels, "f1",
        FitOptions(comparable.uncertain, options.folds, allow_leak=True),  # `read_comparable` has looked at it
    )  # fmt: skip
    ranked = each.kind == Kind.RANK  # mean ranks are no probabilities
    values = {
        **{name: value for name, (value, _) in each.means.items()},
        "macro_F1": decided.macros["macro_F1"],
        "macro_ECE": None if ranked else macro(ece(images.truth, chances)),
        "macro_Brier": None if ranked else macro(brier(images.truth, chances)),
    }
    if each.samples:
        for name, (_, sampled) in each.means.items():
            enough = images.positive_studies(images.columns(name)) >= ENOUGH
            low, high = interval(sampled, options.level) if enough else (np.nan, np.nan)
            values |= {f"{name}_low": low, f"{name}_high": high}
    about = {"name": each.side.name, "folder": str(each.side.path), "fitted_here": list(each.side.fitted)}
    about |= _training(each.side.run)
    return about | {name: defined(value) for name, value in values.items()}


def _training(run: Run | None) -> dict:
    """What a run is and what it took; all None of a table."""
    keys = ("arch", "size", "loss", "sampler", "epochs", "epochs_planned", "finished", "best_epoch", "device",
            "images_per_second", "hours")  # fmt: skip
    if run is None:
        return dict.fromkeys(keys)
    spent = run.metrics[["images", "train_seconds", "val_seconds"]].sum()
    values = (
        run.setting("arch"),
        run.setting("size"),
        run.setting("loss", "bce"),
        run.setting("sampler", "natural"),
        len(run.metrics),
        run.setting("epochs"),
        run.progress.finished,
        int(run.best["epoch"]),
        run.device,
        defined(spent["images"] / (spent["train_seconds"] or np.nan)),
        float(spent["train_seconds"] + spent["val_seconds"]) / 3600,
    )
    return dict(zip(keys, values, strict=True))


def _finding_row(place: int, scored: Sequence[_Scored], base: _Scored, images: _Images, level: float) -> dict:
    """How frequent a finding is, and AP and its differences by run."""
    scores = base.scores
    positives, known = int(scores.positives[place]), int(scores.positives[place] + scores.negatives[place])
    studies = images.positive_studies(np.arange(len(scores.findings)) == place)
    ap = {each.side.name: (each.scores.ap[place], each.samples and each.samples.ap[:, place]) for each in scored}
    others = [name for name in ap if name != base.side.name]
    return {
        "finding": scores.findings[place],
        "group": str(images.group[place]),
        "train_positives": int(images.train_positives[place]),
        "positives": positives,
        "positive_studies": studies,
        "prevalence": positives / known if known else None,
        "AP": {name: defined(value) for name, (value, _) in ap.items()},
        "differences": {name: _difference(ap[name], ap[base.side.name], studies, level) for name in others},
    }


def _difference(one: _Value, other: _Value, studies: int, level: float) -> dict:
    """studies: those with a positive image, on which the scores rest; of too few, the difference alone."""
    (value, sampled), (other_value, other_sampled) = one, other
    if sampled is None or studies < ENOUGH:
        sampled = other_sampled = np.empty(0)
    return difference(value, other_value, sampled, other_sampled, level)
