"""A folder of runs, or of `cxrdali paper`: which runs are in it, and what is beside them.

DIR/runs/NAME               run folders (or right in DIR)
DIR/evaluations/NAME.SPLIT.json
DIR/views.json, DIR/paper.json, DIR/submission.zip
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrdali.postprocess import views as view_rules
from cxrdali.report.training.scores import Evaluation, read_evaluation, read_json
from cxrdali.runs.layout import MODELS
from cxrdali.runs.listing import natural
from shards.errors import UserError

RECORD = "paper.json"
SPLITS = ("test", "dev", "val")  # the most telling first
VIEW_NUMBERS = ("frontal_ap", "lateral_ap", "difference")


@dataclass(frozen=True)
class PaperFolder:
    """What `cxrdali paper` leaves beside its runs, as far as it is there.

    models: those to expect; steps: name, status, seconds of each step so far; evaluations: by (name, split);
    views: what views.json says by finding, None if not fitted yet; views_from: which predictions it was fitted on.
    """

    path: Path
    models: tuple[str, ...]
    steps: tuple[dict, ...]
    evaluations: Mapping[tuple[str, str], Evaluation]
    views: pd.DataFrame | None
    views_from: Mapping[str, object]
    submission: bool


def read_paper(path: Path) -> PaperFolder:
    """Raises UserError naming the file for one that is damaged or was not written by `cxrdali paper`."""
    record = {}
    if (path / RECORD).exists():
        wrong = "not what `cxrdali paper` writes ({}); delete it, or give another folder"
        record = read_json(path / RECORD, _check_record, wrong)
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
            raise UserError(f"{file}: holds an evaluation of {evaluation.content['split']}, not {split}; rename it")
        evaluations[name, split] = Evaluation(name, evaluation.content)
    return PaperFolder(
        path,
        tuple(record.get("models", MODELS)),
        tuple(record.get("steps", ())),
        dict(sorted(evaluations.items(), key=lambda item: (not item[0][0].startswith("model"), natural(item[0][0])))),
        views,
        rules.made_from if rules else {},
        (path / "submission.zip").exists(),
    )


def _check_record(record: dict) -> dict:
    if not all(isinstance(name, str) for name in record.get("models", ())):
        raise ValueError("'models' is not a list of names")
    if not isinstance(record.get("tables", []), list):
        raise ValueError("'tables' is not a list")
    for step in record.get("steps", ()):
        step["name"], step["status"]
        if not isinstance(step.get("seconds"), int | float | None):
            raise ValueError(f"seconds {step['seconds']!r} is not a number")
    return record
