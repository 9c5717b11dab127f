"""What `cxrdali loss-design` leaves beside its runs, as far as it is there: a half-done study has a page too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.calibration import Calibration
from cxrdali.postprocess.thresholds import Thresholds
from cxrdali.report.training.folder import SPLITS, WITHOUT_ONE, Evaluation, of_kinds, read_evaluation, read_json
from cxrdali.runs.layout import RECORD, Table
from cxrdali.runs.steps import Book
from shards.storage.sealed import check_kinds, maybe

T = TypeVar("T")
ROLES = {"reference": str, "main": str, "losses": [str], "backbones": [str], "retrained": [str], "others": [str]}
RECORD_KINDS = {
    "models": [str], "notes": [str], "steps": [str], "roles": ROLES, "synthetic": bool, "strategy": str,
    "splits": {str: bool}, "tables": [{"name": str, "kind": str, "of": str, "how": str}],
}  # fmt: skip
_DIFFERENCE = {name: maybe(float) for name in ("difference", "low", "high", "p", "p_holm")}
_BEST = {"run": str, "second": str, "difference": maybe(float), "low": maybe(float), "high": maybe(float)}
_MEANS = {f"{name}?": maybe(float) for name in ("macro_AUROC", "macro_F1", "macro_ECE", "macro_Brier", "hours")}
WEIGHTS = {"members": [str], "values": [float]}
COMPARISON = {  # what a page shows of one
    "baseline": str, "draws": int, "level": float, "fewest_patients": int, "unit": str, "studies": int,
    "comparisons": {"means": int, "findings": int}, "best": {str: maybe(_BEST | {"separable": bool})},
    "groups": {str: [str]}, "without_positives": [str], "without_training?": [str], "notes": [str],
    "without_negatives?": [str],
    "settings": [{"setting": str, "values": {str: object}}],
    "runs": [{"name": str, "mAP": maybe(float), "images_per_second?": maybe(float), **_MEANS}],
    "differences": [{"run": str, "metric": str, **_DIFFERENCE, "without_one": maybe(WITHOUT_ONE)}],
    "findings": [{
        "finding": str, "group": str, "train_positives": int, "positives": int, "positive_patients": int,
        "negative_patients": int,
        "prevalence": maybe(float), "AP": {str: maybe(float)}, "differences": {str: _DIFFERENCE},
    }],
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """synthetic: whether its images are; roles: names of models by what they are there for; labelled: by split, whether
    it has labels; evaluations: by (table, split); calibrations: by (table, method); thresholds: by table; weights: of
    the weighted ensemble by member; comparisons: by what is compared; seconds: of every step so far, None for those
    that are not done. Results of a run or table that was made again since, or is being, are not read."""

    path: Path
    synthetic: bool
    models: tuple[str, ...]
    roles: Mapping[str, str | list[str]]
    labelled: Mapping[str, bool]
    strategy: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    evaluations: Mapping[tuple[str, str], Evaluation]
    calibrations: Mapping[tuple[str, str], Calibration]
    thresholds: Mapping[str, Thresholds]
    weights: Mapping[str, float]
    comparisons: Mapping[str, dict]
    seconds: Mapping[str, float | None]

    def of_kind(self, kind: str) -> list[Table]:
        return [table for table in self.tables if table.kind == kind]

    @property
    def splits(self) -> list[str]:
        """Those with an evaluation, the most telling first."""
        return [split for split in SPLITS if any(where == split for _, where in self.evaluations)]


def is_study(path: Path) -> bool:
    return (path / RECORD).is_file()


def read_study(path: Path) -> Study:
    """Raises UserError naming the file for one that is damaged or was not written by `cxrdali loss-design`."""
    record = _json(path / RECORD, _check_record)
    seconds, outdated = Book(path).recorded(record["steps"])

    def there(folder: str, steps: Mapping[object, str], read: Callable[[Path], T]) -> dict:
        """By key what is in folder/KEY.json, of the steps that are not outdated."""
        files = {
            key: path / folder / f"{key if isinstance(key, str) else '.'.join(key)}.json"
            for key, step in steps.items()
            if step not in outdated
        }
        return {key: read(file) for key, file in files.items() if file.exists()}

    tables = tuple(Table(**table) for table in record["tables"])
    scored = [(table.name, split) for table in tables for split in record["splits"]]
    calibrated = [(table.of, table.how) for table in tables if table.kind == "calibrated"]
    compared = [name.removeprefix("compare ") for name in record["steps"] if name.startswith("compare ")]
    found = there(".", {"weights": "weights"}, partial(_json, parse=of_kinds(WEIGHTS)))
    weights = found.get("weights", {"members": (), "values": ()})
    comparison = partial(_json, parse=of_kinds(COMPARISON))
    evaluations = there("evaluations", {pair: f"evaluate {' '.join(pair)}" for pair in scored}, read_evaluation)
    return Study(
        path,
        record["synthetic"],
        tuple(record["models"]),
        record["roles"],
        record["splits"],
        record["strategy"],
        tables,
        tuple(record["notes"]),
        {pair: Evaluation(pair[0], each.content) for pair, each in evaluations.items()},
        there("calibrations", {pair: f"calibrate {' '.join(pair)}" for pair in calibrated}, calibration.read),
        there("thresholds", {table.name: f"thresholds {table.name}" for table in tables}, thresholds.read),
        dict(zip(weights["members"], weights["values"], strict=True)),
        there("comparisons", {what: f"compare {what}" for what in compared}, comparison),
        {name: seconds.get(name) for name in record["steps"]},
    )


def final(study: Study) -> str:
    """The last of what is made: the calibrated ensemble, or as far as the study has come. Fixed, not chosen."""
    done = {name for name, _ in study.evaluations}
    last = [table.name for table in study.of_kind("calibrated") if table.of == "ensemble"]
    order = [*last, "ensemble", study.roles["main"], *study.models]
    return next((name for name in order if name in done), order[-1])


def _json(path: Path, parse: Callable[[dict], T]) -> T:
    return read_json(
        path, parse, "not what `cxrdali loss-design` writes ({}); delete it and run the same command again"
    )


def _check_record(record: dict) -> dict:
    if record["format"] != 1:
        raise ValueError(f"format {record['format']!r}, this cxrdali reads 1")
    check_kinds(record, RECORD_KINDS)
    if not set(record["splits"]) <= set(SPLITS):
        raise ValueError(f"splits {', '.join(record['splits'])}")
    for table in record["tables"]:
        Table(**table)
    return record
