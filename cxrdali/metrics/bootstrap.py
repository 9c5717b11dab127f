"""Scores on samples of the patients, from which `intervals` makes confidence intervals.

Images of a patient are not independent, so a sample takes patients with replacement; an image then counts as often as
its patient was taken. Each finding is sorted once: a sample changes only the weights of the images, so scores need
running sums over the sorted positives instead of a new sort, and between two of these only how often the images there
were taken. Tied scores are one threshold, as in scikit-learn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix, hstack

from cxrdali.metrics.calibration_error import BINS, brier, ece, equal_width
from cxrdali.metrics.decisions import score_decisions
from cxrdali.metrics.intervals import ERROR, SCORE, Sampled
from cxrdali.metrics.ranking import Scores, ratio, reweighted_ap

CHUNK = 20  # samples whose weights are in memory together: 20 x 50,000 float32 is 4 MB, about what a cache holds
SELF = 0.5  # of a positive that does not count towards the precision at its own rank, in the score that is resampled


@dataclass(frozen=True)
class Images:
    """What is scored. truth: float [n, F] with 1, 0 and NaN (ignored for that finding); values: float [n, F], whose
    order counts; patient: int [n], equal for images that are not independent; probabilities: float [n, F] (None: values
    are no logits); called: bool [n, F], or with NaN where a finding has no threshold (None: no thresholds); negative:
    float [F], how much a negative image counts beside a positive one in AP_reweighted (None: it is not asked for);
    among: int [P], ascending, the patients that are sampled, of whom these images' are some (None: their own): equal
    ones pair the scores of different images, as of two groups."""

    truth: np.ndarray
    values: np.ndarray
    patient: np.ndarray
    probabilities: np.ndarray | None = None
    called: np.ndarray | None = None
    negative: np.ndarray | None = None
    among: np.ndarray | None = None

    def where(self, mask: np.ndarray) -> "Images":
        probabilities, called = (each if each is None else each[mask] for each in (self.probabilities, self.called))
        return Images(
            self.truth[mask], self.values[mask], self.patient[mask], probabilities, called, self.negative, self.among
        )

    def patients(self, label: int = 1) -> list[int]:
        """Of each finding, how many patients have an image with this label."""
        return [len(np.unique(self.patient[column == label])) for column in self.truth.T]


def resample(
    images: Images,
    scores: Scores | None,
    count: int,
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
    *,
    also: Sequence[str] = (),
) -> dict[str, Sampled]:
    """AP, AUROC, and as far as the images allow it ECE, Brier score and F1, on patients sampled with replacement.

    Args:
        images: At least one.
        scores: Theirs; None for all that follows from sums over images alone, without AP and AUROC, which take longer.
        count: How many samples.
        seed: Equal seeds and patients give equal samples, whatever the scores: that pairs models.
        progress: Called with how many samples are done since the last call.
        also: Names of MORE that are asked for besides, each as far as the images allow it.
    """
    patients, codes = np.unique(images.patient, return_inverse=True)
    among = patients if images.among is None else images.among
    places = np.searchsorted(among, patients)
    findings = range(images.truth.shape[1])
    fewest = np.minimum(images.patients(1), images.patients(0))
    ranked = [_Sorted.of(images.truth[:, place], images.values[:, place], codes) for place in findings if scores]
    made = {name: (SUMS | MORE)[name](images, codes) for name in (*SUMS, *also)}
    sums = {name: of for name, of in made.items() if of is not None}
    reported = {} if scores is None else _ranking(images, scores, ranked)
    reported |= {name: (of.observed, of.statistic) for name, of in sums.items()}
    samples = {name: np.full((count, len(findings)), np.nan) for name in reported}
    generator = np.random.default_rng(seed)
    for first in range(0, count, CHUNK):
        chunk = slice(first, first + min(CHUNK, count - first))
        picked = generator.integers(0, len(among), (chunk.stop - first, len(among)))
        # float32 sums stay exact up to 16.7 million images, and halve the memory traffic
        counts = np.stack([np.bincount(row, minlength=len(among))[places] for row in picked], axis=1)
        taken = counts.astype(np.float32)
        for place, finding in enumerate(ranked):
            samples["AP"][chunk, place], samples["AUROC"][chunk, place] = finding.weighted(taken)
            if images.negative is not None:
                samples["AP_reweighted"][chunk, place] = finding.weighted(taken, images.negative[place])[0]
        for name, of in sums.items():
            samples[name][chunk] = of.weighted(taken)
        progress(chunk.stop - first)
    kinds = {name: ERROR if name == "ECE" else SCORE for name in samples}
    patients_of = {name: np.array(images.patients(label)) for name, label in (("recall", 1), ("specificity", 0))}
    return {
        name: Sampled(*reported[name], values, patients_of.get(name, fewest), kinds[name])
        for name, values in samples.items()
    }


def _ranking(images: Images, scores: Scores, ranked: Sequence["_Sorted"]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of all images, AP, AUROC and, if it is asked for, AP_reweighted: a `Sampled`'s value and statistic."""
    once = np.ones((len(np.unique(images.patient)), 1), np.float32)
    observed = np.array([finding.weighted(once) for finding in ranked])[:, :, 0]
    found = {"AP": (scores.ap, observed[:, 0]), "AUROC": (scores.auroc, observed[:, 1])}
    if images.negative is not None:
        columns = zip(ranked, images.negative, strict=True)
        again = np.array([finding.weighted(once, weight)[0][0] for finding, weight in columns])
        found["AP_reweighted"] = (reweighted_ap(images.truth, images.values, images.negative), again)
    return found


@dataclass(frozen=True)
class _Sums:
    """A score that follows from sums over images: of each patient, and of a sample as often as a patient was taken.

    parts: sparse [patients, parts x F]; score: from float64 [samples, parts, F] to [samples, F]; observed, statistic:
    float64 [F], a `Sampled`'s value and statistic.
    """

    parts: csr_matrix
    findings: int
    score: Callable[[np.ndarray], np.ndarray]
    observed: np.ndarray
    statistic: np.ndarray

    def weighted(self, taken: np.ndarray) -> np.ndarray:
        summed = np.asarray((self.parts.T @ taken).T, dtype=np.float64)
        return self.score(summed.reshape(taken.shape[1], -1, self.findings))


def _by_patient(codes: np.ndarray, parts: list[np.ndarray]) -> csr_matrix:
    """parts: float32 [n, F] each, summed over the images of each patient: [patients, parts x F]."""
    of_patient = csr_matrix((np.ones(len(codes), np.float32), (codes, np.arange(len(codes)))))
    return hstack([of_patient @ csr_matrix(part) for part in parts]).tocsr()


def _f1(images: Images, codes: np.ndarray) -> _Sums | None:
    if images.called is None:
        return None
    positive, negative = images.truth == 1, images.truth == 0
    called, passed = images.called == 1, images.called == 0
    parts = [called & positive, called & negative, passed & positive]

    def score(sums: np.ndarray) -> np.ndarray:
        hits, alarms, misses = np.moveaxis(sums, 1, 0)
        return ratio(2 * hits, 2 * hits + alarms + misses, hits + misses > 0)

    observed = score_decisions(images.truth, images.called).F1
    made = _by_patient(codes, [part.astype(np.float32) for part in parts])
    return _Sums(made, positive.shape[1], score, observed, observed)


def _ece(images: Images, codes: np.ndarray) -> _Sums | None:
    if images.probabilities is None:
        return None
    known = ~np.isnan(images.truth)
    errors = np.where(known, images.truth - images.probabilities, 0).astype(np.float32)
    place = equal_width(images.probabilities)
    sums = _by_patient(codes, [np.where(place == each, errors, 0) for each in range(BINS)])
    parts = hstack([sums, _by_patient(codes, [known.astype(np.float32)])]).tocsr()

    def score(sums: np.ndarray) -> np.ndarray:
        return ratio(np.abs(sums[:, :-1]).sum(axis=1), sums[:, -1])

    # two standard errors of each bin's sum: so much chance can have added
    chance = 2 * np.sqrt(np.asarray(sums.power(2).sum(axis=0)).reshape(BINS, -1))
    error = np.abs(np.asarray(sums.sum(axis=0), dtype=np.float64).reshape(BINS, -1))
    least = ratio(np.maximum(error - chance, 0).sum(axis=0), known.sum(axis=0))
    return _Sums(parts, known.shape[1], score, ece(images.truth, images.probabilities), least)


def _brier(images: Images, codes: np.ndarray) -> _Sums | None:
    if images.probabilities is None:
        return None
    known = ~np.isnan(images.truth)
    squares = np.where(known, images.truth - images.probabilities, 0).astype(np.float32) ** 2
    return _share(codes, squares, known, brier(images.truth, images.probabilities))


def _share(codes: np.ndarray, part: np.ndarray, whole: np.ndarray, observed: np.ndarray) -> _Sums:
    """part, whole: [n, F], whose sums over images are divided; observed: float64 [F], what that gives."""
    made = _by_patient(codes, [part.astype(np.float32), whole.astype(np.float32)])
    return _Sums(made, whole.shape[1], lambda sums: ratio(sums[:, 0], sums[:, 1]), observed, observed)


def _rate(label: int, images: Images, codes: np.ndarray) -> _Sums | None:
    """The share of the images with this label that are called as they should be."""
    if images.called is None:
        return None
    right = (images.truth == label) & (images.called == label)
    whole = (images.truth == label) & ~np.isnan(images.called)
    return _share(codes, right, whole, ratio(right.sum(axis=0), whole.sum(axis=0)))


def _prevalence(images: Images, codes: np.ndarray) -> _Sums:
    positive, known = images.truth == 1, ~np.isnan(images.truth)
    return _share(codes, positive, known, ratio(positive.sum(axis=0), known.sum(axis=0)))


SUMS: dict[str, Callable[[Images, np.ndarray], _Sums | None]] = {"ECE": _ece, "Brier": _brier, "F1": _f1}
MORE: dict[str, Callable[[Images, np.ndarray], _Sums | None]] = {
    "recall": partial(_rate, 1),
    "specificity": partial(_rate, 0),
    "prevalence": _prevalence,
}


@dataclass(frozen=True)
class _Sorted:
    """One finding's images from the highest score to the lowest, in steps: those above the first tied scores with a
    positive among them, those tied, those up to the next ones with a positive, and so on.

    steps: sparse [steps, patients], how many images each patient has in each; owner: of each positive in that order its
    patient, tie: which of the ties it is in, counted from 0; first, last: the first and last positive of its tie.
    """

    steps: csr_matrix
    owner: np.ndarray
    tie: np.ndarray | slice
    first: np.ndarray | slice
    last: np.ndarray | slice

    @classmethod
    def of(cls, target: np.ndarray, score: np.ndarray, codes: np.ndarray) -> "_Sorted":
        rows = np.flatnonzero(~np.isnan(target))
        order = rows[np.argsort(-score[rows], kind="stable")]
        ranked = -score[order]
        positive = np.flatnonzero(target[order] == 1)
        values, first, tie = np.unique(ranked[positive], return_index=True, return_inverse=True)
        ends = (np.searchsorted(ranked, values, side=side) for side in ("left", "right"))
        steps = np.searchsorted(np.stack([*ends], axis=1).ravel(), np.arange(len(order)), side="right")
        shape = 2 * len(values) + 1, codes.max() + 1
        made = csr_matrix((np.ones(len(order), np.float32), (steps, codes[order])), shape)
        if len(values) == len(positive):  # no ties: views in place of copies
            return cls(made, codes[order[positive]], *(slice(None),) * 3)
        last = np.append(first[1:], len(positive)) - 1
        return cls(made, codes[order[positive]], tie, first[tie], last[tie])

    def weighted(self, taken: np.ndarray, negative: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """AP without SELF, and AUROC, when each patient is taken as often as a column of `taken`, float32
        [patients, samples], says: float64 [samples] each.

        negative: how much a negative image counts beside a positive one, which AUROC does not depend on.
        """
        undefined = np.full(taken.shape[1], np.nan)
        if len(self.owner) in (0, self.steps.sum()) or not 0 < negative < np.inf:
            return undefined, undefined
        seen = np.cumsum(self.steps @ taken, axis=0, dtype=np.float64)  # [steps, samples]: taken down to a step's end
        own = taken[self.owner]  # [P, samples]
        found = np.cumsum(own, axis=0, dtype=np.float64)
        total_positive, total = found[-1], seen[-1]
        before, at_end = seen[:-1:2][self.tie], seen[1::2][self.tie]
        with np.errstate(all="ignore"):
            # a positive counts itself among those found; one that was not taken adds nothing, and 0 / 0 is no number
            alarms = negative * (at_end - found[self.last])
            hits = found[self.last] - SELF
            precision = hits / np.where(own > 0, hits + alarms, np.inf)
            ap = (own * precision).sum(axis=0) / total_positive
            # negatives ranked above a positive, those tied with it counted half
            found_before = found[self.first] - own[self.first]
            above = before - found_before
            tied = (at_end - found[self.last]) - above
            negatives = total - total_positive
            auroc = 1 - (own * (above + tied / 2)).sum(axis=0) / (total_positive * negatives)
        for values in (ap, auroc):
            values[(total_positive == 0) | (negatives <= 0)] = np.nan
        return ap, auroc
