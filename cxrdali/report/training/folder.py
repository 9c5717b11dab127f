"""A folder of runs, or of `cxrdali paper`: which runs are in it, and what is beside them, read and checked.

DIR/runs/NAME               run folders (or right in DIR)
DIR/evaluations/NAME.SPLIT.json
DIR/comparisons/SPLIT.json
DIR/views.json, DIR/paper.json, DIR/submission.zip
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from cxrdali.metrics.calibration_error import ERRORS, KINDS
from cxrdali.postprocess import views as view_rules
from cxrdali.report.groups.tables import GROUPS_BY
from cxrdali.runs.layout import MODELS
from cxrdali.runs.listing import natural
from shards.errors import UserError
from shards.storage.sealed import check_kinds, maybe
from shards.storage.sealed import read_json as read_sealed

T = TypeVar("T")
RECORD = "paper.json"
SPLITS = ("test", "dev", "val")  # the most telling first
VIEW_NUMBERS = ("frontal_ap", "lateral_ap", "difference")
SCORES = ("AP", "AUROC", *KINDS, "Brier", "F1", "precision", "recall", "specificity")
_ENDS = ("", "_low", "_high")
WITHOUT_ONE = {"low": float, "high": float, "low_without": str, "high_without": str}
MEANS = {f"{name}{end}?": maybe(float) for name in ("mAP", *(f"macro_{each}" for each in SCORES)) for end in _ENDS}
MEANS["mAP_without_one?"] = maybe(WITHOUT_ONE)
FINDING = {"finding": str, "positives": int, "prevalence": maybe(float), "AP": maybe(float), "AUROC": maybe(float)} | {
    "group?": maybe(str), "train_positives?": maybe(int), "threshold?": maybe(float),
    **dict.fromkeys(("negatives?", "positive_patients?", "negative_patients?"), int),
    **{f"{name}{end}?": maybe(float) for name in SCORES for end in _ENDS},
}  # fmt: skip
PART = {"images": int, "studies": int, "LRAP": maybe(float), "without_positives": [str], "findings": [FINDING]} | {
    "without_negatives?": [str], "patients?": int, **ERRORS, **MEANS, "mAP": maybe(float), "macro_AUROC": maybe(float),
    "groups?": maybe({str: {"findings?": [str], **MEANS}}),
}  # fmt: skip
EVALUATION = {
    "images": int, "studies": int, "labels": str, "all": PART, "frontal?": maybe(PART), "lateral?": maybe(PART),
    "predictions?": maybe(str), "run?": maybe(str), "split?": maybe(str), "uncertain?": maybe(str),
    "values?": maybe(str), "history?": [str], "without_training?": [str], "level?": maybe(float), "draws?": maybe(int),
    "seen?": maybe([str]), "unit?": str, "fewest_patients?": int,
    "thresholds?": maybe({
        "strategy": str, "remarks?": [str], "without_threshold?": [str], "predictions?": maybe(str), "run?": maybe(str),
        "split?": maybe(str),
    }),
    "groups_by?": maybe(GROUPS_BY),
    "common?": maybe({"same": {str: str}, **dict.fromkeys(("only_predictions", "only_labels", "words"), [str])}),
    "groups?": maybe({"rule?": str, "train_images?": int, "train_positives?": {str: int}}), "synthetic?": bool,
    "curves?": {str: maybe({"true_positives": [int], "false_positives": [int]})},
}  # fmt: skip
COMPARISON = {
    "draws": int, "level": float,
    "differences": [
        {"run": str, "against": str, **dict.fromkeys(("difference", "low", "high", "p", "p_holm"), maybe(float))}
    ],
}  # fmt: skip
RECORD_KINDS = {
    "models?": [str], "tables?": [str], "steps?": [{"name": str, "status": str, "seconds?": maybe(float)}],
    "synthetic?": bool,
}  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """name: for headings. content: the whole .json."""

    name: str
    content: dict

    @property
    def mean(self) -> float | None:
        """mAP of all views; None: no finding has a positive image."""
        return self.content["all"]["mAP"]


def read_json(path: Path, parse: Callable[[dict], T], wrong: str) -> T:
    """What `parse` makes of a JSON file.

    Raises:
        UserError: with `wrong`, where {} is the reason, if the file is not what was written or as `parse` needs it.
        FileNotFoundError: there is no such file.
    """
    try:
        return parse(read_sealed(path))
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: {wrong.format(reason)}") from error


def of_kinds(kinds: dict) -> Callable[[dict], dict]:
    """For `read_json`: the content itself, of these kinds."""

    def parse(content: dict) -> dict:
        check_kinds(content, kinds)
        return content

    return parse


def read_evaluation(path: Path) -> Evaluation:
    """Raises UserError if the file is not what `cxrdali evaluate` writes."""

    def parse(content: dict) -> Evaluation:
        check_kinds(content, EVALUATION)
        for view in ("all", "frontal", "lateral"):
            names = [row["finding"] for row in (content.get(view) or {"findings": []})["findings"]]
            if len(set(names)) < len(names):
                raise ValueError("a finding is duplicated")
            if content.get(view) and not names:
                raise ValueError(f"{view} has no finding")
            for row in (content.get(view) or {"findings": []})["findings"]:
                if row["AP"] is not None and row.get("negatives") == 0:  # as older versions had it: 1.0
                    raise ValueError(
                        f"counts an AP of {row['finding']!r}, of which no image is negative; evaluate again"
                    )
        _check_curves(content)
        name = content.get("run") or Path(content.get("predictions") or path.name).stem
        split = content.get("split")
        return Evaluation(f"{name}, {split} split" if split else str(name), content)

    try:
        return read_json(path, parse, "not an evaluation ({}); give a .json that `cxrdali evaluate` wrote")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `cxrdali evaluate` writes one") from None


def _check_curves(content: dict) -> None:
    """Raises ValueError unless every curve goes from no image to all of its finding's."""
    rows = {row["finding"]: row for row in content["all"]["findings"]}
    for name, curve in (content.get("curves") or {}).items():
        if curve is None:
            continue
        ends = [rows.get(name, {}).get(key) for key in ("positives", "negatives")]
        counts = [curve[key] for key in ("true_positives", "false_positives")]
        if [(each[:1], each[-1:]) for each in counts] != [([0], [end]) for end in ends] or not all(ends):
            raise ValueError(f"curves.{name!r} does not go from 0 to {ends[0]} positives and {ends[1]} negatives")
        if len(counts[0]) != len(counts[1]) or any(each != sorted(each) for each in counts):
            raise ValueError(f"curves.{name!r} is not ascending, or its two counts differ in length")


@dataclass(frozen=True)
class PaperFolder:
    """What `cxrdali paper` leaves beside its runs, as far as it is there.

    models: those to expect; steps: name, status, seconds of each step so far; evaluations: by (name, split);
    comparisons: by split; views: what views.json says by finding, None if not fitted yet; views_from: which predictions
    it was fitted on; synthetic: whether its images are.
    """

    path: Path
    models: tuple[str, ...]
    steps: tuple[dict, ...]
    evaluations: Mapping[tuple[str, str], Evaluation]
    comparisons: Mapping[str, dict]
    views: pd.DataFrame | None
    views_from: Mapping[str, object]
    submission: bool
    synthetic: bool


def read_paper(path: Path) -> PaperFolder:
    """Raises UserError naming the file for one that is damaged or was not written by `cxrdali paper`."""
    wrong = "not what `cxrdali paper` writes ({}); delete it, or give another folder"
    record = read_json(path / RECORD, of_kinds(RECORD_KINDS), wrong) if (path / RECORD).exists() else {}
    compared = {split: path / "comparisons" / f"{split}.json" for split in SPLITS}
    parse = of_kinds(COMPARISON)
    comparisons = {split: read_json(file, parse, wrong) for split, file in compared.items() if file.exists()}
    rules = view_rules.read(path / "views.json") if (path / "views.json").exists() else None
    views = None
    if rules is not None:
        rows = [{**vars(rule), "difference": rule.difference, "superior": rule.superior} for rule in rules.rules]
        views = pd.DataFrame(rows).set_index("finding")
        views[[*VIEW_NUMBERS]] = views[[*VIEW_NUMBERS]].astype(float)
    evaluations = {}
    for file in sorted((path / "evaluations").glob("*.json")):
        name, _, split = file.stem.rpartition(".")
        if not name or split not in SPLITS:
            raise UserError(f"{file}: not named NAME.SPLIT.json (SPLIT test, dev or val); rename it or move it away")
        if name not in record.get("tables", (name,)):
            continue  # of an earlier plan: what is there need not go with these models
        evaluation = read_evaluation(file)
        if evaluation.content.get("split") not in (None, split):
            raise UserError(f"{file}: holds an evaluation of {evaluation.content['split']!r}, not {split!r}; rename it")
        evaluations[name, split] = Evaluation(name, evaluation.content)
    return PaperFolder(
        path,
        tuple(record.get("models", MODELS)),
        tuple(record.get("steps", ())),
        dict(sorted(evaluations.items(), key=lambda item: (not item[0][0].startswith("model"), natural(item[0][0])))),
        comparisons,
        views,
        rules.made_from if rules else {},
        (path / "submission.zip").exists(),
        record.get("synthetic", False),
    )
