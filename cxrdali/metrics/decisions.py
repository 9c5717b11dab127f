"""F1, precision, recall and specificity of yes-or-no decisions per finding, with undefined cases named.

Targets are float [n, F] with 1, 0 and NaN (ignored for that finding); decisions are bool [n, F], or floats with NaN
where a finding has no threshold, and so no score.
"""

from dataclasses import dataclass

import numpy as np

from cxrdali.metrics.ranking import macro, ratio

METRICS = ("F1", "precision", "recall", "specificity")


@dataclass(frozen=True)
class Decisions:
    """Per finding, float64 [F]: F1, precision, recall (= sensitivity) and specificity, 0 to 1.

    NaN, never zero, where undefined: F1, precision and recall of a finding without a positive image, precision also
    where no image is called positive, F1, precision (1 whatever is called) and specificity without a negative image.
    Macro means leave these out.
    """

    F1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    specificity: np.ndarray

    def macro(self, name: str) -> float:
        """The mean of one of METRICS over the findings that have it (NaN if none has)."""
        return macro(getattr(self, name))


def score_decisions(truth: np.ndarray, called: np.ndarray) -> Decisions:
    """Raises ValueError on shapes that differ."""
    if truth.shape != called.shape:
        raise ValueError(f"targets {truth.shape}, decisions {called.shape}: must agree")
    positive, negative = truth == 1, truth == 0
    called, passed = called == 1, called == 0
    hits, misses = (called & positive).sum(axis=0), (passed & positive).sum(axis=0)
    alarms, rejections = (called & negative).sum(axis=0), (passed & negative).sum(axis=0)
    both = (hits + misses > 0) & (alarms + rejections > 0)
    return Decisions(
        ratio(2 * hits, 2 * hits + alarms + misses, both),
        ratio(hits, hits + alarms, both),
        ratio(hits, hits + misses),
        ratio(rejections, rejections + alarms),
    )
