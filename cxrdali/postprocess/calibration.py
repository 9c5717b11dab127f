"""Calibration: rules fitted to a validation table, written as JSON, applied to any table of the same model.

Before and after are measured by cross-fitting over subjects; the rules that are written are fitted on all images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from cxrdali import predictions as tables
from cxrdali.data.splits import group_codes
from cxrdali.fitted import APPLY, CALIBRATION, here, joined
from cxrdali.metrics import calibration_error as reliability
from cxrdali.metrics.calibration_error import ERRORS, Curve
from cxrdali.metrics.ranking import defined, macro
from cxrdali.postprocess.calibration_maps import ENOUGH, IDENTITY, MAPS, PER_FINDING, Map, fit_temperature
from cxrdali.postprocess.crossfit import HeldOut, check_not_calibrated, cross_fit, read_held_out
from cxrdali.postprocess.options import CALIBRATIONS, DEFAULTS, SHARED, FitOptions
from cxrdali.postprocess.rules import Rules, check_alike, check_findings, fitted, read_rules, with_rules
from cxrdali.predictions import Kind, Predictions, sigmoid
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.storage.sealed import check_kinds, maybe
from shards.words import choices

WHEN = ("before", "after")
ENDS = ("difference", "low", "high")
QUALITY = {
    "ECE": maybe(float), "Brier": maybe(float), "images": [int], "probability": [maybe(float)], "share": [maybe(float)],
}  # fmt: skip
KINDS = {  # of a finding's entry
    "finding": str, "map": dict, "kept": str, "images": int, "positives": int, "before": QUALITY, "after": QUALITY,
    "remark?": str, "parts_kept?": int,
}  # fmt: skip
FILE_KINDS = {
    "method": str, "pooled": dict.fromkeys(WHEN, QUALITY),
    "calibration_error?": {f"{when}?": ERRORS for when in WHEN}, "Brier_difference?": dict.fromkeys(ENDS, maybe(float)),
}  # fmt: skip
MAP_KINDS = {
    "slope?": float, "offset?": float, "tilt?": float, "centre?": float, "logits?": [float], "probabilities?": [float],
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Quality:
    """ECE and Brier score, 0 to 1 (NaN: no known target), and the curve of a reliability diagram."""

    ece: float
    brier: float
    curve: Curve


@dataclass(frozen=True, eq=False)
class FindingCalibration:
    """map: from logits to calibrated logits; kept: why it is the identity, "" if it was fitted.

    images: those whose target is known; positives: of these. before, after: cross-fitted. remark: why another method
    was used, or "". parts_kept: parts of the cross-fit whose images stayed as they are, as their fit was not possible.
    """

    finding: str
    map: Map
    kept: str
    images: int
    positives: int
    before: Quality
    after: Quality
    remark: str = ""
    parts_kept: int = 0


@dataclass(frozen=True, eq=False)
class Calibration(Rules):
    """rules: one per finding. pooled_before, pooled_after: all findings together. made_from: as in HeldOut.

    errors: "before" and "after", each `calibration_error.errors`; brier_difference: after less before. A file of an
    older version has neither: no entry, and None.
    """

    method: str
    rules: tuple[FindingCalibration, ...]
    pooled_before: Quality
    pooled_after: Quality
    made_from: dict
    errors: dict
    brier_difference: dict

    @property
    def verdict(self) -> str:
        """What is to be said of a Brier score that is not lower by its interval; "" if it is, or has none."""
        low, high = self.brier_difference["low"], self.brier_difference["high"]
        if low is None or high is None or high < 0:
            return ""
        if low > 0:
            return "worse: on images that it was not fitted to, the Brier score is higher than before"
        return "whether it lowers the Brier score cannot be told: the interval of the difference holds 0"

    def macro(self, name: str, when: str) -> float:
        """Mean over findings of "ece" or "brier", "before" or "after" (NaN if no finding has one)."""
        return macro(np.array([getattr(getattr(rule, when), name) for rule in self.rules]))

    def content(self) -> dict:
        """NaN is null."""
        sums = {
            f"macro_{key}_{when}": defined(self.macro(name, when))
            for key, name in (("ECE", "ece"), ("Brier", "brier"))
            for when in WHEN
        }
        return {
            "method": self.method,
            "made_from": self.made_from,
            **sums,
            "calibration_error": self.errors,
            "Brier_difference": self.brier_difference,
            "pooled": {"before": _stored(self.pooled_before), "after": _stored(self.pooled_after)},
            "findings": [_stored_rule(rule) for rule in self.rules],
        }


def fit(path: Path, dataset: Dataset, labels: Labels, method: str, options: FitOptions = DEFAULTS) -> Calibration:
    """Fit a calibration to a table of logits with labels. method: one of CALIBRATIONS.

    Raises UserError for another method, and whatever `read_held_out` raises.
    """
    if method not in CALIBRATIONS:
        raise UserError(f"method {method!r}: {choices(method, CALIBRATIONS)}")
    data = read_held_out(path, dataset, labels, options)
    check_not_calibrated(path, data.about)
    negatives = data.images - data.positives
    methods = [_method(method, *counts) for counts in zip(data.positives, negatives, strict=True)]
    with threadpool_limits(1):  # on two busy cores the solver's threads wait for each other: 20 times slower
        maps, parts_kept, calibrated = _fit([name for name, _ in methods], data)
    probabilities = [sigmoid(logits) for logits in (data.logits, calibrated)]
    before, after = (_qualities(data.truth, each) for each in probabilities)
    columns = zip(
        data.findings, maps, data.images.tolist(), data.positives.tolist(), before[:-1], after[:-1],
        ["" if kept else remark for (_, remark), (_, kept) in zip(methods, maps, strict=True)], parts_kept, strict=True,
    )  # fmt: skip
    rules = tuple(FindingCalibration(name, made, kept, *rest) for name, (made, kept), *rest in columns)
    errors = {when: reliability.errors(data.truth, each) for when, each in zip(WHEN, probabilities, strict=True)}
    difference = reliability.brier_difference(data.truth, *probabilities, group_codes(dataset, "subject")[data.rows])
    return Calibration(method, rules, before[-1], after[-1], data.made_from, errors, difference)


def fit_maps(methods: Sequence[str], truth: np.ndarray, logits: np.ndarray) -> list[tuple[Map, str]]:
    """Per finding the map and why it is the identity ("" if it was fitted); truth and logits are float [n, F]."""
    if methods[0] == SHARED:
        return [fit_temperature(truth, logits)] * truth.shape[1]
    return [PER_FINDING[each](truth[:, place], logits[:, place]) for place, each in enumerate(methods)]


def apply(
    path: Path, calibration: Calibration, allow_other_run: bool = False, allow_same_images: bool = False
) -> Predictions:
    """The table (logits) with calibrated logits, in its own order of images and findings; without findings that the
    calibration does not know.

    Raises UserError for probabilities, no finding that it knows, calibrated logits, a table of another run or TTA, or
    dev or test images that the calibration was fitted to, unless these are allowed.
    """
    table = tables.as_logits(tables.read(path), path)
    table = table.of(with_rules(path, table, calibration.findings, "calibration"))
    remark = check(path, table, calibration, allow_other_run)
    entry = fitted(CALIBRATION, calibration.made_from)
    here([entry], table.ids, table.provenance.split).check(path, allow_same_images, APPLY)
    return calibrated(path, table, calibration, remark)


def check(path: Path, table: Predictions, calibration: Calibration, allow_other_run: bool = False) -> str:
    """What the history says of the calibration's origin, as `check_alike`; raises UserError as `apply` does, of the
    images aside."""
    check_not_calibrated(path, table.provenance)
    check_findings(path, table, calibration.findings, "calibration")
    return check_alike(path, table.provenance, calibration.made_from, "calibration", allow_other_run)


def calibrated(path: Path, table: Predictions, calibration: Calibration, remark: str = "") -> Predictions:
    """The table, checked, with calibrated logits. Raises UserError for one that would be no number."""
    by_name = {rule.finding: (rule.map, rule.kept) for rule in calibration.rules}
    with np.errstate(over="ignore"):
        values = _use([by_name[name] for name in table.findings], table.values)
    if not np.isfinite(values).all():
        row, place = np.argwhere(~np.isfinite(values))[0]
        raise UserError(
            f"{path}: finding {table.findings[place]!r} of image {table.ids['image_id'].iloc[row]!r} would leave the "
            f"range of numbers (its logit is {table.values[row, place]:g}); predict again"
        )
    step = f"calibrated: {calibration.method}, fitted on {calibration.made_from['predictions']}"
    steps = (*table.provenance.calibrated, step)
    also = joined([*table.fitted, fitted(CALIBRATION, calibration.made_from)])
    return table.after(values, step + remark, kind=Kind.CALIBRATED, calibrated=steps, fitted=also)


def read(path: Path) -> Calibration:
    """Raises UserError if `path` is not what `Calibration.write` wrote."""
    return read_rules(path, _parse, KINDS, "calibration", "fit it again with `cxrdali calibrate --fit`")


def _method(method: str, positives: int, negatives: int) -> tuple[str, str]:
    """The method for a finding, and why it is another than the one asked for ("" if it is that one)."""
    for name, count in (("positive", positives), ("negative", negatives)):
        if method == "isotonic" and count < ENOUGH:
            return "platt", f"Platt, {count} {name} of at least {ENOUGH} for isotonic"
    return method, ""


def _fit(methods: Sequence[str], data: HeldOut) -> tuple[list[tuple[Map, str]], list[int], np.ndarray]:
    """Maps fitted on all images, in how many parts of the cross-fit there is none, and cross-fitted logits.

    What no part could fit was never judged on other images, so it stays as it is; so do the cross-fitted logits of a
    finding that is not calibrated.
    """
    parts: list[list[tuple[Map, str]]] = []

    def fit_part(truth: np.ndarray, logits: np.ndarray) -> list[tuple[Map, str]]:
        parts.append(fit_maps(methods, truth, logits))
        return parts[-1]

    maps, calibrated, parts_kept = fit_maps(methods, data.truth, data.logits), cross_fit(data, fit_part, _use), []
    for place, (_, kept) in enumerate(maps):
        reasons = [part[place][1] for part in parts]
        if not kept and all(reasons):
            kept = f"no part of the cross-fit could be fitted ({reasons[0]})"
        if kept:
            maps[place], calibrated[:, place] = (IDENTITY, kept), data.logits[:, place]
        parts_kept.append(0 if kept else sum(map(bool, reasons)))
    return maps, parts_kept, calibrated


def _use(maps: list[tuple[Map, str]], logits: np.ndarray) -> np.ndarray:
    """float32 [n, F], as a table holds them."""
    columns = [each(values) for (each, _), values in zip(maps, logits.T, strict=True)]
    return np.stack(columns, axis=1).astype(np.float32)


def _qualities(truth: np.ndarray, probabilities: np.ndarray) -> list[Quality]:
    """One per finding, and last that of all findings together."""
    curves = [*reliability.curves(truth, probabilities), reliability.pooled(truth, probabilities)]
    flat = truth.reshape(-1, 1), probabilities.reshape(-1, 1)
    briers = [*reliability.brier(truth, probabilities), *reliability.brier(*flat)]
    return [Quality(curve.ece, float(brier), curve) for curve, brier in zip(curves, briers, strict=True)]


def _parse(stored: dict) -> Calibration:
    check_kinds(stored, FILE_KINDS)
    if stored["method"] not in CALIBRATIONS:
        raise ValueError(f"method {stored['method']!r} is not one of {', '.join(CALIBRATIONS)}")
    rules = tuple(_rule(row) for row in stored["findings"])
    pooled = [_quality(stored["pooled"][when]) for when in WHEN]
    newer = stored.get("calibration_error", {}), stored.get("Brier_difference", dict.fromkeys(ENDS))
    return Calibration(stored["method"], rules, *pooled, stored["made_from"], *newer)


def _rule(row: dict) -> FindingCalibration:
    stored = dict(row["map"])
    kind = stored.pop("kind")
    if kind not in MAPS:
        raise ValueError(f"{row['finding']}: map {kind!r} is not one of {', '.join(MAPS)}")
    try:
        check_kinds(stored, MAP_KINDS, "map")
        made = MAPS[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{row['finding']}: {error}") from error
    qualities = map(_quality, (row["before"], row["after"]))
    newer = row.get("remark", ""), row.get("parts_kept", 0)
    return FindingCalibration(row["finding"], made, row["kept"], row["images"], row["positives"], *qualities, *newer)


def _stored_rule(rule: FindingCalibration) -> dict:
    made = {"kind": _kind(rule.map), **asdict(rule.map)}
    return {**vars(rule), "map": made, "before": _stored(rule.before), "after": _stored(rule.after)}


def _kind(made: Map) -> str:
    return next(kind for kind, type_ in MAPS.items() if isinstance(made, type_))


def _stored(quality: Quality) -> dict:
    curve = quality.curve
    return {
        "ECE": defined(quality.ece),
        "Brier": defined(quality.brier),
        "images": curve.images.tolist(),
        "probability": [defined(value) for value in curve.probability.tolist()],
        "share": [defined(value) for value in curve.share.tolist()],
    }


def _quality(stored: dict) -> Quality:
    numbers = [np.array(stored[key], dtype=np.float64) for key in ("images", "probability", "share")]  # null is NaN
    if len({each.shape for each in numbers}) > 1 or numbers[0].ndim != 1:
        raise ValueError("a reliability curve's bins differ in number")
    ece, brier = (float("nan") if stored[key] is None else float(stored[key]) for key in ("ECE", "Brier"))
    return Quality(ece, brier, Curve(numbers[0].astype(np.int64), *numbers[1:]))
