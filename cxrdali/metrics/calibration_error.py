"""How far probabilities can be believed: calibration error, Brier score, and the curve of a reliability diagram.

Targets are float [n, F] with 1, 0 and NaN (ignored for that finding); probabilities are float [n, F] of having the
finding, 0 to 1. A finding without a known target has no score: NaN.

The curve is not `sklearn.calibration.calibration_curve`: that one leaves out empty bins and gives no counts, which
calibration error and pooling need, and it puts a probability on an edge into the bin below it.
"""

from dataclasses import dataclass

import numpy as np

from cxrdali.metrics.ranking import ratio

BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"


@dataclass(frozen=True)
class Curve:
    """Bins of equal width in probability, the lowest first. images: int64 [bins], known targets in each.

    probability, share: float64 [bins], mean probability and share of positives in each (NaN in an empty bin).
    """

    images: np.ndarray
    probability: np.ndarray
    share: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1 (NaN without an image)."""
        errors = np.abs(self.share - self.probability) * self.images
        return float(ratio(errors[self.images > 0].sum(), self.images.sum()))


def ece(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Expected calibration error per finding: float64 [F], 0 (best) to 1.

    Mean over the images of |share of positives - mean probability| of the image's bin (Naeini et al. 2015), for the
    probability of having the finding: a multi-label classifier has no confidence in a winning class.
    """
    return np.array([each.ece for each in curves(truth, probabilities, bins)])


def brier(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean squared difference of probability and target per finding (Brier 1950): float64 [F], 0 (best) to 1."""
    _check(truth, probabilities)
    known = ~np.isnan(truth)
    squares = np.where(known, probabilities.astype(np.float64) - np.nan_to_num(truth), 0) ** 2
    return ratio(squares.sum(axis=0), known.sum(axis=0))


def curves(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> list[Curve]:
    """One curve per finding. Bin k of K holds k/K <= p < (k + 1)/K; the last one also holds 1."""
    _check(truth, probabilities)
    edges = np.arange(1, bins) / bins
    found = []
    for target, values in zip(truth.T, probabilities.T.astype(np.float64), strict=True):
        known = ~np.isnan(target)
        place = np.searchsorted(edges, values[known], side="right")
        images, positives, total = (
            np.bincount(place, weights, bins) for weights in (None, target[known], values[known])
        )
        found.append(Curve(images, ratio(total, images), ratio(positives, images)))
    return found


def pooled(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Curve:
    """The curve of all findings together, each image and finding counting once."""
    return curves(truth.reshape(-1, 1), probabilities.reshape(-1, 1), bins)[0]


def _check(truth: np.ndarray, probabilities: np.ndarray) -> None:
    """Raises ValueError on shapes that differ, or on a probability that is none."""
    if truth.shape != probabilities.shape:
        raise ValueError(f"targets {truth.shape}, probabilities {probabilities.shape}: must agree")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities lie outside 0..1, or are NaN")
