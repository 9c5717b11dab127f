"""Curves as counts at a few thresholds: each is scikit-learn's, and what is left out has a bound."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from cxrdali.metrics.curves import POINTS, counts, precision_recall


def finding(images: int, share: float, skill: float, seed: int = 0, ties: bool = False):
    generator = np.random.default_rng(seed)
    truth = (generator.random(images) < share).astype(float)
    scores = generator.normal(size=images) + skill * truth
    truth[generator.random(images) < 0.1] = np.nan
    return truth, np.round(scores, 1) if ties else scores


def areas(true: np.ndarray, false: np.ndarray) -> tuple[float, float]:
    """AP and AUROC of the kept thresholds alone."""
    precision, recall = precision_recall(true, false)
    return float((np.diff([0, *recall]) * precision).sum()), float(np.trapezoid(true / true[-1], false / false[-1]))


def bounds(true: np.ndarray, false: np.ndarray) -> tuple[float, float]:
    """How far AP and AUROC can be off: any threshold between two kept ones has counts between theirs."""
    low, high = true[:-1], true[1:]
    best, worst = high / np.maximum(high + false[:-1], 1), (low + 1) / (low + 1 + false[1:])
    stretch = np.diff(true) / true[-1]
    return float((stretch * (best - worst)).sum()), float((stretch * np.diff(false) / false[-1]).sum() / 2)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("images", "share", "skill"),
    [(60, 0.3, 1), (2_000, 0.01, 2), (50_000, 0.3, 1), (50_000, 0.002, 2), (50_000, 0.0004, 0.5), (50_000, 0.2, 0)],
)
def test_the_areas_are_scikit_learn_s_within_what_was_left_out(images, share, skill, ties):
    truth, scores = finding(images, share, skill, ties=ties)
    found = counts(truth, scores)
    true, false = (np.array(each) for each in found.values())
    known = ~np.isnan(truth)
    ap, auroc = areas(true, false)
    allowed = bounds(true, false)
    assert abs(ap - average_precision_score(truth[known], scores[known])) <= min(allowed[0], 0.01) + 1e-12
    assert abs(auroc - roc_auc_score(truth[known], scores[known])) <= min(allowed[1], 0.002) + 1e-12
    assert len(true) <= 2 * POINTS


@pytest.mark.parametrize("ties", [False, True])
def test_every_kept_threshold_is_one_of_scikit_learn_s(ties):
    truth, scores = finding(5_000, 0.05, 1, ties=ties)
    known = ~np.isnan(truth)
    false_rate, recall, _ = roc_curve(truth[known], scores[known], drop_intermediate=False)
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    exact = set(zip(np.rint(recall * positives), np.rint(false_rate * negatives), strict=True))
    found = counts(truth, scores)
    kept = list(zip(*found.values(), strict=True))
    assert set(kept) <= exact and kept == sorted(kept)
    assert (kept[0], kept[-1]) == ((0, 0), (positives, negatives))


def test_of_a_rare_finding_no_step_is_lost():
    truth = np.zeros(20_000)
    truth[[3, 500, 9_000, 19_999]] = 1
    scores = np.random.default_rng(1).normal(size=len(truth)) + truth
    ap, _ = areas(*(np.array(each) for each in counts(truth, scores).values()))
    assert ap == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


def test_there_is_no_curve_without_a_positive_or_a_negative():
    assert counts(np.array([0.0, 0, np.nan]), np.arange(3.0)) is None
    assert counts(np.array([1.0, np.nan]), np.arange(2.0)) is None
    assert counts(np.array([1.0, 0.0]), np.zeros(2)) == {"true_positives": [0, 1], "false_positives": [0, 1]}
