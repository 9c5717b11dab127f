"""The difference of two models on the same images, by a paired bootstrap: both are scored on the same draws of studies.

Equal seeds draw equal studies (`cxrdali.bootstrap.resample`), so what makes a draw hard or easy falls out of the
difference, whose interval is narrower than those of the two scores suggest.
"""

from dataclasses import dataclass

import numpy as np

from cxrdali.metrics import defined


@dataclass(frozen=True)
class Difference:
    """value: on the images as they are; low, high: its interval, from draws; p: two-sided. NaN where undefined."""

    value: float
    low: float
    high: float
    p: float

    def as_json(self) -> dict:
        names = {"difference": self.value, "low": self.low, "high": self.high, "p": self.p}
        return {name: defined(number) for name, number in names.items()}


def difference(
    value: float, other: float, drawn: np.ndarray, other_drawn: np.ndarray, level: float = 0.95
) -> Difference:
    """value - other. drawn, other_drawn: float64 [draws], the two scores on the same draws; draws in which one is
    undefined (NaN) are left out.

    p is twice the smaller share of draws that lie at 0 or beyond it, each counted with one more draw (Davison & Hinkley
    1997, section 4.2), so never under 2 / (draws + 1). The percentile interval counts draws alike: it leaves out 0
    just where p is at most 1 - level, unless the draws are too few for the level; then it holds all of them.
    """
    differences = drawn - other_drawn
    differences = differences[~np.isnan(differences)]
    if np.isnan(value) or np.isnan(other) or not len(differences):
        return Difference(value - other, np.nan, np.nan, np.nan)
    place = max(1, int((len(differences) + 1) * (1 - level) / 2 + 1e-9))  # the draw in so many of each side
    low, high = np.sort(differences)[[place - 1, -place]]
    beyond = min((differences <= 0).sum(), (differences >= 0).sum()) + 1
    return Difference(value - other, low, high, min(1.0, 2 * beyond / (len(differences) + 1)))


def held(drawn: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Draws [draws, F] whose undefined scores are replaced by those on all images [F].

    A draw without a positive image of a rare finding would leave it out of a macro mean, which would jump: rare
    findings score low. So every draw's mean is over the same findings; that one adds no spread of its own there.
    """
    return np.where(np.isnan(drawn), observed, drawn)
