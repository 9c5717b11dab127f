"""Confidence intervals of AP and AUROC by resampling studies, and whether two scores differ by more than chance.

Images of a study are not independent, so a sample takes studies with replacement; an image then counts as often as
its study was taken. Each finding is sorted once: a sample changes only the weights of the images, so scores need two
running sums over the sorted images instead of a new sort. Tied scores are one threshold, as in scikit-learn.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cxrdali.metrics.ranking import defined, macro

CHUNK = 20  # samples whose weights are in memory together: 20 x 50,000 float32 is 4 MB, about what a cache holds


@dataclass(frozen=True)
class Samples:
    """ap, auroc: float64 [samples, F], NaN where a sample left a finding without a positive or a negative."""

    ap: np.ndarray
    auroc: np.ndarray


def resample(
    targets: np.ndarray,
    scores: np.ndarray,
    study: np.ndarray,
    count: int,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> Samples:
    """AP and AUROC on studies sampled with replacement.

    Args:
        targets: float [n, F] with 1, 0 and NaN (ignored for that finding).
        scores: float [n, F]; only their order counts.
        study: int [n], equal for images of the same study.
        count: How many samples.
        seed: Equal seeds and studies give equal samples, whatever the scores: that pairs models.
        progress: Called with how many samples are done since the last call.
    """
    _, codes = np.unique(study, return_inverse=True)
    studies = int(codes.max()) + 1
    generator = np.random.default_rng(seed)
    sorted_findings = [_Sorted.of(targets[:, f], scores[:, f]) for f in range(targets.shape[1])]
    ap = np.full((count, len(sorted_findings)), np.nan)
    auroc = np.full_like(ap, np.nan)
    for first in range(0, count, CHUNK):
        chunk = min(CHUNK, count - first)
        picked = generator.integers(0, studies, (chunk, studies))
        # float32 sums stay exact up to 16.7 million images, and halve the memory traffic
        weights = np.stack([np.bincount(row, minlength=studies) for row in picked]).astype(np.float32)[:, codes]
        for place, finding in enumerate(sorted_findings):
            ap[first : first + chunk, place], auroc[first : first + chunk, place] = finding.weighted(weights)
        progress(chunk)
    return Samples(ap, auroc)


def interval(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The central interval (low, high) over samples (axis 0) at a level of 0 to 1; NaN samples are left out."""
    tail = (1 - level) / 2 * 100
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")  # a finding without positives: NaN is its interval
        low, high = np.nanpercentile(values, [tail, 100 - tail], axis=0)
    return low, high


def sampled_macro(sampled: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The macro mean of every sample: float64 [samples], of scores [samples, F]. observed: float [F], on all images.

    A sample without a positive image of a rare finding would leave it out of the mean, which would jump: rare findings
    score low. So an undefined score counts as the observed one: every sample's mean is over the same findings, and that
    finding adds no spread of its own there.
    """
    return np.array([macro(row) for row in np.where(np.isnan(sampled), observed, sampled)])


def difference(
    value: float, other: float, sampled: np.ndarray, other_sampled: np.ndarray, level: float = 0.95
) -> dict[str, float | None]:
    """value - other, as "difference", the "low" and "high" of its interval and a two-sided "p" (None: undefined).

    sampled, other_sampled: float64 [samples], the two scores on the same samples; samples in
    which one is undefined (NaN) are left out.

    p is twice the smaller share of samples that lie at 0 or beyond it, each counted with one more sample (Davison &
    Hinkley 1997, section 4.2), so never under 2 / (samples + 1). The percentile interval counts samples alike: it
    leaves out 0 just where p is at most 1 - level, unless they are too few for the level; then it holds all of them.
    """
    differences = sampled - other_sampled
    differences = differences[~np.isnan(differences)]
    if np.isnan(value) or np.isnan(other) or not len(differences):
        return {"difference": defined(value - other), "low": None, "high": None, "p": None}
    place = max(1, int((len(differences) + 1) * (1 - level) / 2 + 1e-9))  # the sample in so many of each side
    low, high = np.sort(differences)[[place - 1, -place]]
    beyond = min((differences <= 0).sum(), (differences >= 0).sum()) + 1
    p = min(1.0, 2 * beyond / (len(differences) + 1))
    return {"difference": float(value - other), "low": float(low), "high": float(high), "p": float(p)}


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
        """AP and AUROC for each row of `weights` float32 [samples, n]: float64 [samples] each."""
        undefined = np.full(len(weights), np.nan)
        if not len(self.positive):
            return undefined, undefined
        ranked = np.take(weights, self.order, axis=1)
        seen = np.cumsum(ranked, axis=1)  # [samples, n]: weight at or above a place
        own = ranked[:, self.positive]  # [samples, P]
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
        one_class = (total_positive == 0) | (negatives <= 0)
        ap[one_class] = auroc[one_class] = np.nan
        return ap, auroc
