"""From scores on samples of the patients to confidence intervals and p values, of findings and of their means.

AP of few positives is too high by chance: the images themselves are one sample, in which a positive helps its own rank,
and resampling them adds as much again. So an interval does not end at percentiles of the samples. It is centred where
the samples say that the score would be without that: at 2 x observed - mean of the samples (of a score that leaves out
half of each positive itself, see `bootstrap`). Its width is the spread of the samples, times c / (c - 1) in variance
for a finding in c patients, because samples of few patients spread too little; of one finding it is taken on the scale
of logits and by Student's t of c - 1 degrees of freedom. `benchmarks.statistics.coverage` chose this among others by
how often intervals hold the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student

from cxrdali.metrics.ranking import defined, macro

ENOUGH = 10  # patients with a finding, and without it: fewer are too few for an interval
MOST = 1 / 3  # of the findings of a mean need as many, for an interval of the mean
SCORE, DIFFERENCE, ERROR = "score", "difference", "error"
TINY = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A score or a difference; the ends of its interval, and p of no difference (None: too few patients, no samples, or
    undefined)."""

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None

    def as_json(self, name: str) -> dict[str, float | None]:
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True, eq=False)
class Sampled:
    """A score of every finding on all images, and on samples of their patients.

    value: float64 [F], what is reported (NaN: undefined); statistic: float64 [F], what the samples repeat, the value
    itself or one of less bias; samples: float64 [samples, F] (NaN where a sample leaves it undefined); patients:
    int64 [F], with a positive image or with a negative one, whichever are fewer; kind: SCORE (0 to 1), DIFFERENCE of
    two, or ERROR: a sum of absolute values, which chance makes larger but never smaller. Its interval reaches from
    below the `statistic`, which has as much taken off as chance can have added, to above the value.
    """

    value: np.ndarray
    statistic: np.ndarray
    samples: np.ndarray
    patients: np.ndarray
    kind: str = "score"

    def at(self, places: Sequence[int]) -> "Sampled":
        """Of the findings at these places alone."""
        kept = [*places]
        own = self.value[kept], self.statistic[kept], self.samples[:, kept], self.patients[kept]
        return Sampled(*own, self.kind)

    def __sub__(self, other: "Sampled") -> "Sampled":
        """The difference: paired where both are on the same samples of the patients, and of two groups of patients
        where each is on samples of its own, of another seed."""
        statistics = (self.value, other.value) if self.kind == ERROR else (self.statistic, other.statistic)
        return Sampled(
            self.value - other.value,
            statistics[0] - statistics[1],
            self.samples - other.samples,
            np.minimum(self.patients, other.patients),
            DIFFERENCE,
        )

    def finding(self, place: int, level: float = 0.95) -> Estimate:
        """Of the finding in this column. level: of the interval, 0 to 1."""
        value, count = defined(self.value[place]), self.patients[place]
        sampled = self.samples[:, place]
        sampled = sampled[~np.isnan(sampled)]
        if value is None or count < ENOUGH or len(sampled) < 2:
            return Estimate(value)
        centre = 2 * self.statistic[place] - sampled.mean()
        spread = float(np.sqrt(sampled.var() * count / (count - 1)))
        quantile = float(student.ppf((1 + level) / 2, count - 1))
        if self.kind == DIFFERENCE:
            p = 2 * student.sf(abs(centre) / max(spread, TINY), count - 1)
            return _difference(value, centre, spread, quantile, p)
        if self.kind == ERROR:
            return _error(value, float(self.statistic[place]), quantile * spread)
        if spread < TINY:  # every sample is perfect: as for a share of which all of `count` have it
            perfect = value > 1 - TINY
            return Estimate(value, float(((1 - level) / 2) ** (1 / count)), 1.0) if perfect else Estimate(value)
        centre = np.clip(centre, spread, 1 - spread) if spread < 0.5 else 0.5
        ends = logit(centre) + np.array([-1, 1]) * quantile * spread / (centre * (1 - centre))
        return Estimate(value, *map(float, expit(ends)))

    def mean(self, columns: np.ndarray | None = None, level: float = 0.95) -> Estimate:
        """The mean over the findings of `columns`, bool [F] (None: all), that have a score.

        A sample that leaves a finding undefined would leave it out of the mean, which would jump, for rare findings
        score low: such a sample takes the observed score. What samples of few patients do not show is added to the
        spread. A finding in one patient has no spread of its own: it gets that of the other findings with fewer than
        ENOUGH patients, each times its patients. Nor has one that every sample ranks perfectly: it gets that of a share
        of which all its patients have it (Beta distribution of patients + 1 and 1).
        """
        kept = ~np.isnan(self.value) if columns is None else ~np.isnan(self.value) & columns
        value = defined(macro(self.value[kept]))
        counts, samples = self.patients[kept].astype(np.float64), self.samples[:, kept]
        if value is None or len(samples) < 2 or (counts >= ENOUGH).mean() < MOST:
            return Estimate(value)
        filled = np.where(np.isnan(samples), self.statistic[kept], samples)
        shown, means = filled.var(axis=0), filled.mean(axis=1)
        several = counts > 1
        own = shown * counts / np.maximum(counts - 1, 1)
        thin = several & (counts < ENOUGH)
        thin = thin if thin.any() else several
        own = np.where(several, own, (own[thin] * counts[thin]).mean())
        if self.kind == SCORE:
            perfect = (shown < TINY**2) & (self.value[kept] > 1 - TINY)
            own = np.where(perfect, (counts + 1) / ((counts + 2) ** 2 * (counts + 3)), own)
        spread = float(np.sqrt(max(means.var() + (own - shown).sum() / kept.sum() ** 2, 0)))
        centre = 2 * self.statistic[kept].mean() - means.mean()
        quantile = float(norm.ppf((1 + level) / 2))
        if self.kind == DIFFERENCE:
            return _difference(value, centre, spread, quantile, 2 * norm.sf(abs(centre) / max(spread, TINY)))
        if self.kind == ERROR:
            return _error(value, float(self.statistic[kept].mean()), quantile * spread)
        return Estimate(value, float(max(centre - quantile * spread, 0)), float(min(centre + quantile * spread, 1)))


def _error(value: float, least: float, half: float) -> Estimate:
    return Estimate(value, max(least - half, 0.0), min(value + half, 1.0))


def _difference(value: float, centre: float, spread: float, quantile: float, p: float) -> Estimate:
    if spread < TINY:  # the same order of all images
        return Estimate(value, None, None, 1.0 if abs(value) < TINY else None)
    return Estimate(value, float(centre - quantile * spread), float(centre + quantile * spread), float(p))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for their number (Holm 1979), in the same order; None stays None and does not count."""
    known = sorted((value, place) for place, value in enumerate(values) if value is not None)
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted


def without_one(values: np.ndarray, names: Sequence[str]) -> dict | None:
    """What a mean would be without one finding: the lowest and highest, and without which; None of fewer than two, or
    if all are equal.

    values: float64 [F], NaN where a finding has none. So that a reader sees whether one finding carries a mean.
    """
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < 2 or not np.ptp(values[known]):
        return None
    others = (values[known].sum() - values[known]) / (len(known) - 1)
    low, high = int(others.argmin()), int(others.argmax())
    return {
        "low": float(others[low]),
        "high": float(others[high]),
        "low_without": names[known[low]],
        "high_without": names[known[high]],
    }


def wilson(share: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """The interval of a share of `count` independent ones (Wilson 1927), 0 to 1; level: 0 to 1.

    Where images are counted and patients are independent, `count` is `independent`: the share need not be a whole
    number of them.
    """
    z = float(norm.ppf((1 + level) / 2))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    return max(0.0, centre - half), min(1.0, centre + half)


def independent(subjects: np.ndarray) -> float:
    """As how many independent images those of these subjects, [n], count if a subject's all say the same: as many as
    there are subjects with equally many images each, and fewer where some have most of them (Kish 1965)."""
    sizes = np.unique(subjects, return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0
