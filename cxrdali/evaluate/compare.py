"""Runs and tables of predictions side by side on the images that they share: scores, groups of findings, speed, and
whether a difference is more than chance would make of these images."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali import predictions as tables
from cxrdali.data.splits import group_codes, group_ids, released_rows, subject_is
from cxrdali.data.targets import check_labelled
from cxrdali.data.targets import counts as count_targets
from cxrdali.evaluate import by_group, differences, remarks, same_images
from cxrdali.evaluate.differences import TESTED, Ground, Scored
from cxrdali.evaluate.options import CompareOptions
from cxrdali.evaluate.same_images import Comparable, Side, train_counts
from cxrdali.fitted import in_words
from cxrdali.metrics.bootstrap import Images, resample
from cxrdali.metrics.intervals import ENOUGH
from cxrdali.metrics.longtail import GROUPS, groups, without_training
from cxrdali.metrics.ranking import Scores, defined, score
from cxrdali.postprocess.crossfit import Parts, parts
from cxrdali.postprocess.options import Strategy
from cxrdali.postprocess.thresholds import cross_fitted
from cxrdali.predictions import Kind, sigmoid
from cxrdali.runs.layout import METRICS
from cxrdali.runs.reader import Run
from shards.dataset.dataset import Dataset
from shards.errors import UserError
from shards.progress import progress_bar
from shards.storage.files import write_bytes
from shards.storage.for_people import guarded_rows
from shards.storage.sealed import sealed_json
from shards.words import choices, counted

F1 = Strategy("f1")  # of the thresholds that decisions are made by


def compare(runs: Sequence[Path], dataset: Dataset, options: CompareOptions, label_release: str | None = None) -> dict:
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
    subjects, patient = np.unique(group_ids(dataset, "subject")[rows], return_inverse=True)
    truth, study = comparable.truth[rows], group_codes(dataset, "study")[rows]
    group = np.array(groups(counts, train_images) if train_images else [""] * len(counts))
    ground = Ground(labels.findings, group, counts, options.level)
    scored, images = _score(comparable, dataset, truth, patient, options)
    base = next(each for each in scored if each.side is base_side)
    both = np.minimum(base.scores.positives, base.scores.negatives).tolist()
    findings = _finding_rows(scored, base, ground, Images(truth, truth, patient))
    found = differences.of_means(scored, base, ground)
    common = {side.name: asdict(side.shared) for side in comparable.sides if side.shared is not None}
    return {
        "dataset": dataset.id,
        "synthetic": dataset.synthetic,
        "labels": labels.name,
        "uncertain": comparable.uncertain,
        "split": comparable.split,
        "images": len(rows),
        "studies": len(np.unique(study)),
        "subjects": len(subjects),
        "train_images": train_images,
        "baseline": base_side.name,
        **{"draws": options.draws, "level": options.level, "seed": options.seed, "folds": options.folds},
        "unit": subject_is(dataset),
        "groups": {name: np.array(labels.findings)[group == name].tolist() for name in GROUPS},
        **({"common": common} if common else {}),
        "fewest_patients": ENOUGH,
        "without_positives": base.scores.without_positives,
        "without_negatives": base.scores.without_negatives,
        "without_training": without_training(labels.findings, both, counts) if train_images else [],
        "notes": [
            *comparable.notes,
            *_in_common(comparable),
            *same_images.caveats(comparable.runs),
            *(_other_counts(comparable, counts) if base_side.run else ()),
            *_thin_findings(findings),
            *remarks.of_differences(found, base_side.name),
        ],
        "settings": same_images.differing_settings(comparable.runs),
        "runs": [_run_row(each, ground) for each in scored],
        "best": {name: differences.best(name, scored, ground) for name in TESTED},
        "differences": found,
        "comparisons": differences.tested(found, findings),
        "findings": findings,
        "groups_by": by_group.compared(images, base_side.name, dataset, rows, labels.findings, options),
    }


def write(result: dict, json_path: Path) -> list[Path]:
    """NAME.json with everything, NAME.csv with a row per run, NAME.findings.csv with one per finding and run."""
    by_run = {row["name"]: {} for row in result["runs"]}
    for row in result["differences"]:
        name = f"{row['metric']}_difference"
        ends = {f"{name}_{key}": row[key] for key in ("low", "high", "p", "p_holm")}
        by_run[row["run"]] |= {name: row["difference"], **ends}
    counted = ("finding", "group", "train_positives", "positives", "positive_patients", "prevalence")
    per_finding = [
        {**{key: row[key] for key in counted}, "run": name, "AP": row["AP"][name], **row["differences"].get(name, {})}
        for row in result["findings"]
        for name in by_run
    ]
    per_finding += [
        {"finding": name, "group": f"left out, {only.replace('_', ' ')}", "run": run}
        for run, shared in result.get("common", {}).items()
        for only in ("only_predictions", "only_labels")
        for name in shared[only]
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


def _train_counts(base: Side, dataset: Dataset, comparable: Comparable) -> tuple[list[int], int]:
    """Of the baseline's own training images; of a table that does not say these, the labels' training split."""
    if base.run is not None:
        return train_counts(base.run, comparable.labels)
    if (home := tables.read(base.path).provenance.home) is not None:
        known = dict(home.positives)
        return [known[name] for name in base.own(comparable.labels.findings)], home.images
    rows = released_rows(dataset, comparable.labels, "train")
    return count_targets(comparable.truth, rows)[0].tolist(), len(rows)


def _other_counts(comparable: Comparable, counts: Sequence[int]) -> list[str]:
    return [
        f"{run.name}: was trained on other images than the baseline, whose counts make head, medium and tail"
        for run in comparable.runs
        if train_counts(run, comparable.labels)[0] != counts
    ]


def _in_common(comparable: Comparable) -> list[str]:
    """Where tables and labels have other findings: which ones all scores are of, and what each leaves out."""
    shared = {side.name: side.shared for side in comparable.sides if side.shared is not None}
    if not shared:
        return []
    findings = comparable.labels.findings
    said = [f"All scores are of the {counted(len(findings), 'finding')} in common: {', '.join(findings)}"]
    for name, each in shared.items():
        said += [f"{name}: {line}" for line in each.lines[1:]]
    return said


def _thin_findings(findings: Sequence[dict]) -> list[str]:
    """Those whose own interval cannot be had, though they are part of the means."""
    counts = {row["finding"]: row["positive_patients"] for row in findings}
    thin = [f"{name} ({count})" for name, count in counts.items() if 0 < count < ENOUGH]
    if not thin:
        return []
    return [f"Too few for an interval, fewer than {ENOUGH} patients have it: {', '.join(thin)}; {remarks.MEANS}"]


def _score(
    comparable: Comparable, dataset: Dataset, truth: np.ndarray, patient: np.ndarray, options: CompareOptions
) -> tuple[list[Scored], dict[str, Images]]:
    """Each by itself, all on the same samples of the patients; and what of each is scored, by name."""
    labels, scored, scored_images = comparable.labels, [], {}
    part = parts(comparable.sides[0].table, group_ids(dataset, "subject")[comparable.rows], options.folds)
    total = options.draws * len(comparable.sides)
    with progress_bar("bootstrap", total, " samples", hidden=not total) as bar:
        for side in comparable.sides:
            values, kind = same_images.logits(side, dataset, labels, comparable.rows)
            scores = score(labels.findings, truth, values)
            if side.run is not None and len(side.run.findings) == len(labels.findings):
                _check_best(side.run, scores, comparable.uncertain)
            chances = None if kind == Kind.RANK else sigmoid(values)  # mean ranks are no probabilities
            images = Images(truth, values, patient, chances, cross_fitted(Parts(truth, values, part), F1))
            scored_images[side.name] = images
            sampled = resample(images, scores, options.draws, options.seed, bar.update)
            scored.append(Scored(side, scores, sampled))
    return scored, scored_images


def _check_best(run: Run, scores: Scores, uncertain: str) -> None:
    """Raises UserError if the table is not that of the epoch that metrics.csv calls the best."""
    here, there = scores.macro_ap, run.best["mAP"]
    if uncertain == run.setting("uncertain", "negative") and not np.isclose(here, there, equal_nan=True):
        raise UserError(
            f"{run.val_predictions}: has a mAP of {here:.4f}, {METRICS} says "
            f"{there:.4f} for epoch {run.best['epoch']:.0f}; if the run is training now, compare again, else run the "
            "same `cxrdali train` again, which mends what a kill left"
        )


def _run_row(each: Scored, ground: Ground) -> dict:
    about = {"name": each.side.name, "folder": str(each.side.path), "fitted_here": list(each.side.fitted)}
    values: dict = {}
    for name in TESTED:
        values |= ground.mean(name, each).as_json(name)
    return about | _training(each.side.run) | values


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
        None if run.settings.study else defined(spent["images"] / (spent["train_seconds"] or np.nan)),
        float(spent["train_seconds"] + spent["val_seconds"]) / 3600,
    )
    return dict(zip(keys, values, strict=True))


def _finding_rows(scored: Sequence[Scored], base: Scored, ground: Ground, images: Images) -> list[dict]:
    """How frequent a finding is, and AP and its differences by run; all differences are one family of comparisons."""
    rows, scores, with_it, without_it = [], base.scores, images.patients(1), images.patients(0)
    paired = {each.side.name: each.sampled["AP"] - base.sampled["AP"] for each in scored if each is not base}
    for place, name in enumerate(ground.findings):
        positives, known = int(scores.positives[place]), int(scores.positives[place] + scores.negatives[place])
        rows.append({
            "finding": name,
            "group": str(ground.group[place]),
            "train_positives": int(ground.train_positives[place]),
            "positives": positives,
            "positive_patients": with_it[place],
            "negative_patients": without_it[place],
            "prevalence": positives / known if known else None,
            "AP": {each.side.name: defined(each.scores.ap[place]) for each in scored},
            "differences": {
                run: differences.as_difference(each.finding(place, ground.level)) for run, each in paired.items()
            },
        })  # fmt: skip
    differences.adjusted([each for row in rows for each in row["differences"].values()])
    return rows
