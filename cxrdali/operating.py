"""A finding's operating points: what each threshold on its logits would yield, and which one a strategy chooses.

An image is called positive if its logit is at or above the threshold. Thresholds are logits that occur, so images that
tie are called alike.
"""

from dataclasses import dataclass

import numpy as np

from shards.errors import DataError

STRATEGIES = ("f1", "precision=P", "recall=R", "prevalence")


@dataclass(frozen=True)
class Strategy:
    """name: f1, precision, recall or prevalence; target: the precision or recall to reach, above 0 to 1, else None."""

    name: str
    target: float | None = None

    def __str__(self) -> str:
        return self.name if self.target is None else f"{self.name}={self.target:g}"


def parse_strategy(text: str) -> Strategy:
    """Raises DataError if `text` is not one of STRATEGIES, with a number for P or R."""
    name, sign, number = text.partition("=")
    if name in ("f1", "prevalence") and not sign:
        return Strategy(name)
    if name in ("precision", "recall") and sign:
        try:
            target = float(number)
        except ValueError:
            target = float("nan")
        if 0 < target <= 1:
            return Strategy(name, target)
        raise DataError(f"strategy {text!r}: {name}= takes a number above 0, at most 1, such as {name}=0.8")
    raise DataError(f"strategy {text!r}: choose one of {', '.join(STRATEGIES)}")


@dataclass(frozen=True)
class Points:
    """Every threshold that makes a difference, the highest first. thresholds: float64 [k], distinct logits;
    called, hits: int64 [k], images and positives at or above it; positives: of all images that are known."""

    thresholds: np.ndarray
    called: np.ndarray
    hits: np.ndarray
    positives: int


def operating_points(truth: np.ndarray, logits: np.ndarray) -> Points:
    """truth: float [n] with 1, 0, NaN (ignored); logits: float [n]."""
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
