"""Confidence intervals of AP and AUROC by resampling studies.

Images of a study are not independent, so a draw takes studies with replacement; an image then counts as
often as its study was drawn. Each finding is sorted once: a draw only re-weights, which is two running sums
over the sorted images instead of a new sort. Ties are one threshold, as in scikit-learn.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cxrdali.metrics.ranking import defined

CHUNK = 20  # draws whose weights are in memory together: 20 x 50,000 float32 is 4 MB, about a cache's size


@dataclass(frozen=True)
class Draws:
    """ap, auroc: float64 [draws, F], NaN where a draw left a finding without a positive (or negative)."""

    ap: np.ndarray
    auroc: np.ndarray

    def interval(self, values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The central interval over draws (axis 0), NaN draws left out."""
        tail = (1 - level) / 2 * 100
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice")  # a finding without positives: NaN is its interval
            low, high = np.nanpercentile(values, [tail, 100 - tail], axis=0)
        return low, high


def resample(
    targets: np.ndarray,
    scores: np.ndarray,
    study: np.ndarray,
    draws: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Draws:
    """`targets` [n, F] (1, 0, NaN), `scores` [n, F], `study` int [n]. `progress` is called with draws done."""
    _, codes = np.unique(study, return_inverse=True)
    studies = int(codes.max()) + 1
    generator = np.random.default_rng(seed)
    sorted_findings = [_Sorted.of(targets[:, f], scores[:, f]) for f in range(targets.shape[1])]
    ap = np.full((draws, len(sorted_findings)), np.nan)
    auroc = np.full_like(ap, np.nan)
    for first in range(0, draws, CHUNK):
        count = min(CHUNK, draws - first)
        picked = generator.integers(0, studies, (count, studies))
        # float32 sums stay exact up to 16.7 million images, and halve the memory traffic
        weights = np.stack([np.bincount(row, minlength=studies) for row in picked]).astype(np.float32)[:, codes]
        for place, finding in enumerate(sorted_findings):
            ap[first : first + count, place], auroc[first : first + count, place] = finding.weighted(weights)
        progress(first + count)
    return Draws(ap, auroc)


@dataclass(frozen=True)
class _Sorted:
    """One finding's images from the highest score to the lowest. positive: places of positives in that order;
    start, end: for each positive the first and last place of its tie."""

    order: np.ndarray
    positive: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, target: np.ndarray, score: np.ndarray) -> "_Sorted":
        rows = np.flatnonzero(~np.isnan(target))
        order = rows[np.argsort(-score[rows], kind="stable")]
        ranked = -score[order]
        positive = np.flatnonzero(target[order] == 1)
        start = np.searchsorted(ranked, ranked[positive], side="left")
        end = np.searchsorted(ranked, ranked[positive], side="right") - 1
        return cls(order, positive, start, end)

    def weighted(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AP and AUROC for each row of `weights` float32 [draws, n]: float64 [draws] each."""
        undefined = np.full(len(weights), np.nan)
        if not len(self.positive):
            return undefined, undefined
        ranked = np.take(weights, self.order, axis=1)
        seen = np.cumsum(ranked, axis=1)  # [draws, n]: weight at or above a place
        own = ranked[:, self.positive]  # [draws, P]
        found = np.cumsum(own, axis=1, dtype=np.float64)
        # the last and first positive of each tie, as places among the positives
        last = np.searchsorted(self.positive, self.end, side="right") - 1
        first = np.searchsorted(self.positive, self.start, side="left")
        total_positive = found[:, -1]
        total = seen[:, -1].astype(np.float64)
        at_end = seen[:, self.end].astype(np.float64)
        before = np.where(self.start > 0, seen[:, np.maximum(self.start - 1, 0)], 0).astype(np.float64)
        with np.errstate(all="ignore"):
            ap = (own * np.where(at_end > 0, found[:, last] / at_end, 0)).sum(axis=1) / total_positive
            # negatives ranked above a positive, those tied with it counted half
            found_before = np.where(first > 0, found[:, np.maximum(first - 1, 0)], 0)
            above = before - found_before
            tied = (at_end - found[:, last]) - above
            negatives = total - total_positive
            auroc = 1 - (own * (above + tied / 2)).sum(axis=1) / (total_positive * negatives)
        ap[total_positive == 0] = np.nan
        auroc[(total_positive == 0) | (negatives <= 0)] = np.nan
        return ap, auroc


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
