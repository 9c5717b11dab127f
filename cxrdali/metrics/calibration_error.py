"""How far probabilities can be believed: calibration error, Brier score, and the curve of a reliability diagram.

Targets are float [n, F] with 1, 0 and NaN (ignored for that finding); probabilities are float [n, F] of having the
finding, 0 to 1. A finding without a known target has no score: NaN.

The curve is not `sklearn.calibration.calibration_curve`: that one leaves out empty bins and gives no counts, which
calibration error and pooling need, and it puts a probability on an edge into the bin below it.

Calibration errors are of three KINDS, each per finding, as the mean over findings (macro), and of the flattened table
(pooled: each image and finding counts once, as Sulake 2026 has it). Chance alone makes the first two larger than 0, the
more so the fewer images there are: `floors` tells by how much.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cxrdali.metrics.ranking import defined, macro, ratio
from shards.storage.sealed import maybe

BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"
SAMPLES = 200  # simulated tables of labels
FINE = 10  # parts of a bin of equally many images, in which simulated labels are sampled with one probability


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


def ece_equal_mass(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> np.ndarray:
    """As `ece`, in bins of equally many images as far as equal probabilities, which stay together, allow (Nixon et al.
    2019, "Measuring Calibration in Deep Learning")."""
    return _per_finding(truth, probabilities, bins, lambda images, gap, _: np.abs(gap).sum() / images.sum())


def ece_debiased(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Root mean square calibration error in bins of equally many images, per finding: float64 [F], -1 to 1.

    The square is the mean, over pairs of different images of a bin, of the product of their (label - probability), so
    that no label meets itself: its expectation is the true one (Lee et al. 2023, "T-Cal", after Kumar et al. 2019,
    "Verified Uncertainty Calibration"). A square below 0, as chance gives to every second perfect table, gives a
    negative root: cut off at 0, a mean over findings would be biased again. NaN without two images in a bin.
    """
    return _per_finding(truth, probabilities, bins, _debiased)


KINDS = {"ECE": ece, "ECE_equal_mass": ece_equal_mass, "ECE_debiased": ece_debiased}

TITLES = {"ECE": "equal width", "ECE_equal_mass": "equal mass", "ECE_debiased": "debiased"}
ERRORS = {  # what `errors` gives, for `check_kinds`
    **{f"{mean}_{name}?": maybe(float) for mean in ("macro", "pooled") for name in KINDS},
    "ECE_floor?": {str: {"mean": maybe(float), "p95": maybe(float)}},
}


def errors(truth: np.ndarray, probabilities: np.ndarray) -> dict:
    """For JSON: macro_ECE, pooled_ECE and the same of the other KINDS (None: undefined), and their "ECE_floor"."""
    flat = truth.reshape(-1, 1), probabilities.reshape(-1, 1)
    found: dict = {f"macro_{name}": defined(macro(kind(truth, probabilities))) for name, kind in KINDS.items()}
    found |= {f"pooled_{name}": defined(kind(*flat)[0]) for name, kind in KINDS.items()}
    return {**found, "ECE_floor": {**floors("macro", truth, probabilities), **floors("pooled", *flat)}}


def floors(prefix: str, truth: np.ndarray, probabilities: np.ndarray) -> dict[str, dict[str, float | None]]:
    """What the same probabilities would show if they were perfect: of each kind, as PREFIX_ECE ..., the "mean" and the
    95th percentile, "p95", of the mean over findings in SAMPLES simulated tables (the same ones in each call).

    Every known label is sampled anew with its image's probability, and independently. Labels of a patient's images go
    together: with 3.5 images a patient, a perfect model's macro ECE is a tenth above this mean.
    """
    _check(truth, probabilities)
    generator = np.random.default_rng(0)
    known = (values[~np.isnan(target)] for target, values in zip(truth.T, probabilities.T, strict=True))
    sampled = np.stack([_sampled(values.astype(np.float64), generator) for values in known])
    tables = ratio(np.nansum(sampled, axis=0), (~np.isnan(sampled)).sum(axis=0))
    return {
        f"{prefix}_{name}": {"mean": defined(row.mean()), "p95": defined(np.quantile(row, 0.95))}
        for name, row in zip(KINDS, tables, strict=True)
    }


def brier(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean squared difference of probability and target per finding (Brier 1950): float64 [F], 0 (best) to 1."""
    _check(truth, probabilities)
    known = ~np.isnan(truth)
    squares = np.where(known, probabilities.astype(np.float64) - np.nan_to_num(truth), 0) ** 2
    return ratio(squares.sum(axis=0), known.sum(axis=0))


def brier_difference(
    truth: np.ndarray, before: np.ndarray, after: np.ndarray, patient: np.ndarray
) -> dict[str, float | None]:
    """Mean over findings of the Brier score of `after` less that of `before`, and its 95 % interval, low to high.

    patient: int [n], equal for images of the same one. The difference is a mean over images, so what each patient adds
    to it gives its standard error (the linearised variance of a cluster sample; two patients are the least).
    """
    known = ~np.isnan(truth)
    gaps = [(each.astype(np.float64) - np.nan_to_num(truth)) ** 2 for each in (after, before)]
    gap, counts = np.where(known, gaps[0] - gaps[1], 0), known.sum(axis=0)
    means = ratio(gap.sum(axis=0), counts)
    value = macro(means)
    shares = np.where(known, (gap - np.nan_to_num(means)) / np.maximum(counts, 1), 0).sum(axis=1)
    added = np.bincount(np.unique(patient, return_inverse=True)[1], shares) / max((counts > 0).sum(), 1)
    half = 1.959964 * np.sqrt(len(added) / max(len(added) - 1, 1) * (added**2).sum())
    return {"difference": defined(value), "low": defined(value - half), "high": defined(value + half)}


def curves(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> list[Curve]:
    """One curve per finding. Bin k of K holds k/K <= p < (k + 1)/K; the last one also holds 1."""
    _check(truth, probabilities)
    found = []
    for target, values in zip(truth.T, probabilities.T.astype(np.float64), strict=True):
        known = ~np.isnan(target)
        place = equal_width(values[known], bins)
        images, positives, total = (
            np.bincount(place, weights, bins) for weights in (None, target[known], values[known])
        )
        found.append(Curve(images, ratio(total, images), ratio(positives, images)))
    return found


def pooled(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Curve:
    """The curve of all findings together, each image and finding counting once."""
    return curves(truth.reshape(-1, 1), probabilities.reshape(-1, 1), bins)[0]


def equal_width(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of each probability, as `curves` has it: int64 of the same shape, from 0."""
    return np.searchsorted(np.arange(1, bins) / bins, values, side="right")


def _equal_mass(values: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each value: int64 [n]. Equal values have the rank of the first of them."""
    order = np.argsort(values)  # `searchsorted` in all the values takes six times as long
    first = np.diff(values[order], prepend=-1) > 0
    rank, place = np.maximum.accumulate(np.where(first, np.arange(len(values)), 0)), np.empty(len(values), dtype=int)
    place[order] = rank * bins // len(values)
    return place


def _per_finding(truth: np.ndarray, probabilities: np.ndarray, bins: int, error: Callable) -> np.ndarray:
    """error(images, sum of label - probability, sum of its square), each float64 [bins], of every finding."""
    _check(truth, probabilities)
    found = np.full(truth.shape[1], np.nan)
    for column, (target, values) in enumerate(zip(truth.T, probabilities.T.astype(np.float64), strict=True)):
        known = ~np.isnan(target)
        if known.any():
            place, gap = _equal_mass(values[known], bins), target[known] - values[known]
            found[column] = error(*(np.bincount(place, weights, bins) for weights in (None, gap, gap**2)))
    return found


def _debiased(images: np.ndarray, gap: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """images: [bins]; gap, squares: sums of (label - probability) and of its square, [..., bins]. Result: [...]."""
    pairs = images > 1
    within = (gap[..., pairs] ** 2 - squares[..., pairs]) / (images[pairs] - 1)
    square = ratio(within.sum(axis=-1), np.full(within.shape[:-1], images[pairs].sum()))
    return np.sign(square) * np.sqrt(np.abs(square))


def _sampled(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """float64 [KINDS, SAMPLES]: the errors of one finding whose labels are sampled with the probabilities `values`.

    The bins are those of the probabilities, so a sample needs only how many positives each has. They are sampled in
    cells, small enough that their images share a probability: a table of 50,000 x 26 takes half a second so.
    """
    if not len(values):
        return np.full((len(KINDS), SAMPLES), np.nan)
    fine, width = _equal_mass(values, BINS * FINE), equal_width(values, BINS)
    _, cell = np.unique(fine * BINS + width, return_inverse=True)
    images, expected, squares = (np.bincount(cell, weights) for weights in (None, values, values**2))
    probability = expected / images
    positives = generator.binomial(images, np.clip(probability, 0, 1), (SAMPLES, len(images)))
    gap, place = positives - expected, np.empty((2, len(images)), dtype=np.int64)
    place[:, cell] = width, fine // FINE
    by_width, by_mass = ((each[:, None] == np.arange(BINS)).astype(np.float64) for each in place)
    gap_squares = positives * (1 - 2 * probability) + squares
    return np.stack([
        np.abs(gap @ by_width).sum(axis=1) / len(values),
        np.abs(gap @ by_mass).sum(axis=1) / len(values),
        _debiased(images @ by_mass, gap @ by_mass, gap_squares @ by_mass),
    ])  # fmt: skip


def _check(truth: np.ndarray, probabilities: np.ndarray) -> None:
    """Raises ValueError on shapes that differ, or on a probability that is none."""
    if truth.shape != probabilities.shape:
        raise ValueError(f"targets {truth.shape}, probabilities {probabilities.shape}: must agree")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities lie outside 0..1, or are NaN")
