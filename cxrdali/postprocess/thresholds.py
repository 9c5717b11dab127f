"""Decision thresholds per finding: fitted to a validation table, written as JSON, applied to any table.

What they yield is measured by cross-fitting over subjects; the thresholds that are written are fitted on all images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdali.data.splits import group_codes, subject_is
from cxrdali.metrics.decisions import METRICS, score_decisions
from cxrdali.metrics.intervals import independent
from cxrdali.metrics.ranking import defined
from cxrdali.postprocess.crossfit import Parts, cross_fit, read_held_out
from cxrdali.postprocess.options import DEFAULTS, FitOptions, Strategy, parse_strategy
from cxrdali.postprocess.rules import Rules, check_alike, check_derived, read_rules, with_rules
from cxrdali.predictions import Predictions, sigmoid
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.storage.sealed import check_kinds, maybe

SCORES = (*METRICS, "F1_half")
KINDS = {  # of a finding's entry
    "finding": str, "threshold": maybe(float), "probability": maybe(float), "remark": str, "images": int,
    "positives": int, **dict.fromkeys(SCORES, maybe(float)), "independent?": maybe([float]),
}  # fmt: skip


@dataclass(frozen=True)
class FindingThreshold:
    """threshold: logit, at or above which an image is called positive (None: no image is); remark: what the strategy
    could not do, or "". images: those whose target is known; positives: of these.

    F1, precision, recall (= sensitivity), specificity: cross-fitted, None if undefined; F1_half: at probability 0.5.
    independent: as how many independent images the positive and the negative ones count, as patients may have several
    (`cxrdali.metrics.intervals.independent`; None: patients are not known, or of an older version).
    """

    finding: str
    threshold: float | None
    remark: str
    images: int
    positives: int
    F1: float | None
    precision: float | None
    recall: float | None
    specificity: float | None
    F1_half: float | None
    independent: tuple[float, float] | None = None

    @property
    def probability(self) -> float | None:
        """The threshold as a probability, for people; decisions compare logits, which do not saturate."""
        return None if self.threshold is None else float(sigmoid(np.array(self.threshold)))


@dataclass(frozen=True)
class Thresholds(Rules):
    """rules: one per finding. macros: cross-fitted means (macro_F1, ...; None if undefined). made_from: as in HeldOut;
    empty for thresholds that were not fitted."""

    strategy: str
    rules: tuple[FindingThreshold, ...]
    macros: dict
    made_from: dict

    def decide(self, path: Path, table: Predictions, allow_other_run: bool = False) -> np.ndarray:
        """bool [n, F] in the table's order: which images are called positive; if a finding has no threshold, floats
        with NaN for it. `path` is for messages.

        Raises UserError if no finding has one, for other calibrations, and, unless allowed, for a table of another run
        or TTA.
        """
        known = with_rules(path, table, self.findings, "thresholds")
        if self.made_from:
            check_alike(path, table.provenance, self.made_from, "thresholds", allow_other_run)
        by_name = {rule.finding: rule.threshold for rule in self.rules}
        called = decide(table.values, [by_name.get(name) for name in table.findings])
        if len(known) == len(table.findings):
            return called
        return np.where([name in known for name in table.findings], called, np.nan)

    def content(self) -> dict:
        findings = [{**vars(rule), "probability": rule.probability} for rule in self.rules]
        return {"strategy": self.strategy, "made_from": self.made_from, **self.macros, "findings": findings}


def fit(path: Path, dataset: Dataset, labels: Labels, strategy: str, options: FitOptions = DEFAULTS) -> Thresholds:
    """Fit thresholds to a table of logits with labels.

    strategy: "f1", "precision=0.8", "recall=0.9" or "prevalence", see `choose`. Raises UserError as `read_held_out`.
    """
    wanted = parse_strategy(strategy)
    data = read_held_out(path, dataset, labels, options)
    chosen = fit_columns(data.truth, data.logits, wanted)
    called = cross_fitted(data, wanted)
    scores, half = score_decisions(data.truth, called), score_decisions(data.truth, data.logits >= 0)
    shown = [*(getattr(scores, name) for name in METRICS), half.F1]
    counts: list[tuple | None] = [None] * len(data.findings)
    if subject_is(dataset) == "patient":
        subject = group_codes(dataset, "subject")[data.rows]
        counts = [tuple(independent(subject[column == label]) for label in (1, 0)) for column in data.truth.T]
    columns = zip(data.findings, chosen, data.images.tolist(), data.positives.tolist(), counts, *shown, strict=True)
    rules = tuple(
        FindingThreshold(finding, threshold, remark, images, positives, *map(defined, measured), count)
        for finding, (threshold, remark), images, positives, count, *measured in columns
    )
    macros = {f"macro_{name}": defined(scores.macro(name)) for name in METRICS}
    return Thresholds(str(wanted), rules, macros | {"macro_F1_half": defined(half.macro("F1"))}, data.made_from)


def cross_fitted(data: Parts, strategy: Strategy) -> np.ndarray:
    """bool [n, F]: which images are called positive by thresholds that were fitted to the other parts."""
    return cross_fit(
        data,
        lambda truth, logits: [threshold for threshold, _ in fit_columns(truth, logits, strategy)],
        lambda thresholds, logits: decide(logits, thresholds),
    )


def fit_columns(truth: np.ndarray, logits: np.ndarray, strategy: Strategy) -> list[tuple[float | None, str]]:
    """Per finding the threshold and a remark, as `choose` gives them; truth and logits are float [n, F]."""
    columns = zip(truth.T, logits.T, strict=True)
    return [choose(operating_points(target, values), strategy) for target, values in columns]


def fixed(findings: tuple[str, ...], probability: float = 0.5) -> Thresholds:
    """The same threshold for every finding, fitted to nothing: 0.5 is what an untuned system uses.

    Raises UserError if `probability` is not between 0 and 1.
    """
    if not 0 < probability < 1:
        raise UserError(f"threshold {probability:g}: a probability between 0 and 1, or a file of `cxrdali thresholds`")
    threshold = float(np.log(probability) - np.log1p(-probability))
    rules = tuple(FindingThreshold(name, threshold, "", 0, 0, *[None] * 5) for name in findings)
    return Thresholds(f"fixed={probability:g}", rules, {}, {})


def decide(logits: np.ndarray, thresholds: list[float | None]) -> np.ndarray:
    """bool [n, F] from logits [n, F] and a threshold (None: no image is called positive) per column."""
    limits = np.array([np.inf if each is None else each for each in thresholds], dtype=np.float64)
    return logits.astype(np.float64) >= limits


def read(path: Path) -> Thresholds:
    """Raises UserError if `path` is not what `Thresholds.write` wrote."""
    return read_rules(path, _parse, KINDS, "thresholds", "fit them again with `cxrdali thresholds --fit`")


def read_or_fixed(text: str, findings: tuple[str, ...]) -> Thresholds:
    """A file of thresholds, or one probability for all findings, as a command line takes them."""
    try:
        probability = float(text)
    except ValueError:
        return read(Path(text))
    return fixed(findings, probability)


def _parse(stored: dict) -> Thresholds:
    macros = {name: stored[name] for name in (f"macro_{name}" for name in SCORES)}
    check_kinds(stored, {"strategy": str, **dict.fromkeys(macros, maybe(float))})
    rules = tuple(_rule(row) for row in stored["findings"])
    return Thresholds(stored["strategy"], rules, macros, stored["made_from"])


def _rule(row: dict) -> FindingThreshold:
    counts = row.get("independent")
    if counts is not None and (len(counts) != 2 or (counts[0] > 0) != (row["positives"] > 0) or min(counts) < 0):
        raise ValueError(f"{row['finding']}: independent {counts!r} of {row['positives']} positive images")
    own = {name: row[name] for name in FindingThreshold.__dataclass_fields__ if name != "independent"}
    rule = FindingThreshold(**own, independent=counts and tuple(counts))
    check_derived(rule.finding, "probability", row["probability"], rule.probability, "threshold says")
    return rule


@dataclass(frozen=True)
class Points:
    """Every threshold that makes a difference, the highest first. thresholds: float64 [k], distinct logits;
    called, hits: int64 [k], images and positives at or above it; positives: of all images that are known."""

    thresholds: np.ndarray
    called: np.ndarray
    hits: np.ndarray
    positives: int


def operating_points(truth: np.ndarray, logits: np.ndarray) -> Points:
    """truth: float [n] with 1, 0, NaN (ignored); logits: float [n].

    By hand, because scikit-learn's curves are of ratios: how many images are called is no longer in them.
    """
    known = ~np.isnan(truth)
    target, values = truth[known], logits[known].astype(np.float64)
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], np.cumsum(target[order] == 1)
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if len(values) else np.zeros(0, dtype=np.int64)
    return Points(values[last], last + 1, hits[last], int((target == 1).sum()))


def choose(points: Points, strategy: Strategy) -> tuple[float | None, str]:
    """The threshold, and a remark ("" if the strategy had its way).

    - f1: the best F1 = 2 hits / (called + positives); of equals the highest threshold.
    - precision=P: the lowest threshold with at least this precision; if none has it, the one of the best precision
      (of equals the lowest).
    - recall=R: the highest threshold with at least this recall.
    - prevalence: as many called as there are positives, as nearly as ties let it; of equally near ones the highest.

    None for a finding without a positive: then no image is called positive.
    """
    if not points.positives:
        return None, "no positive, so no image is called positive"
    remark = ""
    if strategy.name == "f1":
        place = np.argmax(2 * points.hits / (points.called + points.positives))
    elif strategy.name == "recall":
        place = np.argmax(points.hits / points.positives >= strategy.target)
    elif strategy.name == "prevalence":
        place = np.argmin(np.abs(points.called - points.positives))
    else:
        precision = points.hits / points.called
        enough = np.flatnonzero(precision >= strategy.target)
        if not len(enough):
            enough = np.flatnonzero(precision == precision.max())
            remark = f"precision {strategy.target:g} is not reached, the best is {precision.max():.3f}"
        place = enough[-1]
    return float(points.thresholds[place]), remark
