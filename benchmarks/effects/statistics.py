"""What paired replicates say: the t interval of their differences, equivalence within a margin, Holm's adjustment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cxrdali.metrics.intervals import holm

LEVEL = 0.05
HIGHER, LOWER, EQUIVALENT, OPEN = "higher", "lower", "equivalent", "not separable"


@dataclass(frozen=True)
class Paired:
    """Differences of paired replicates: mean, its 95 % t interval, the two-sided p that it is 0, and the p of two
    one-sided t tests that it is outside of plus or minus the margin (Schuirmann 1987)."""

    mean: float
    low: float
    high: float
    p: float
    p_outside: float


def paired(differences: Sequence[float], margin: float) -> Paired:
    """The replicates are the unit: each has its own training images, held-out images and random numbers, so their
    spread holds the sampling noise of all three. At least two of them."""
    mean, freedom = float(np.mean(differences)), len(differences) - 1
    error = float(np.std(differences, ddof=1) / np.sqrt(freedom + 1))
    reach = error * float(stats.t.ppf(1 - LEVEL / 2, freedom))
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return Paired(mean, mean - reach, mean + reach, p, float(stats.t.sf((margin - abs(mean)) / error, freedom)))


def verdicts(found: Sequence[Paired]) -> list[str]:
    """A word for each difference of a family, by Holm's adjustment of both tests over the family.

    HIGHER and LOWER go before EQUIVALENT: a difference within the margin can be one that was shown.
    """
    apart, inside = (holm([getattr(each, name) for each in found]) for name in ("p", "p_outside"))
    return [
        (HIGHER if each.mean > 0 else LOWER) if p < LEVEL else EQUIVALENT if p_outside < LEVEL else OPEN
        for each, p, p_outside in zip(found, apart, inside, strict=True)
    ]
