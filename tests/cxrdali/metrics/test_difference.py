import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrdali.metrics.bootstrap import difference, resample


def test_worked_by_hand():
    # differences -1, 0, 1, 2, 3 and one undefined: 2 of 5 are at or below 0, so p = 2 * (2 + 1) / (5 + 1)
    # level 0.4: 0.3 * (5 + 1) = 1.8, so the first sample of each side; 0.3: 0.35 * 6 = 2.1, the second
    sampled, other = np.array([0.0, 1, 2, 3, 4, np.nan]), np.array([1.0, 1, 1, 1, 1, 1])
    made = difference(4.0, 2.5, sampled, other, level=0.3)
    assert (made["difference"], made["low"], made["high"], made["p"]) == (1.5, 0.0, 2.0, 1.0)
    assert difference(4.0, 2.5, sampled, other, level=0.4)["low"] == -1
    made = difference(4.0, 2.5, sampled + 10, other, level=0.3)
    assert made["p"] == pytest.approx(2 / 6) and difference(2.5, 4.0, other, sampled + 10)["p"] == made["p"]
    assert made == {"difference": 1.5, "low": 10.0, "high": 12.0, "p": pytest.approx(2 / 6)}


@pytest.mark.parametrize(("samples", "level"), [(99, 0.95), (100, 0.95), (1000, 0.95), (999, 0.9), (250, 0.99)])
def test_the_interval_leaves_out_0_just_where_p_says_so(samples, level):
    rng, seen = np.random.default_rng(samples), set()
    for shift in np.linspace(1.2, 3.2, 300):
        made = difference(shift, 0, rng.normal(shift, 1, samples) * rng.choice([-1, 1]), np.zeros(samples), level)
        outside = made["low"] > 0 or made["high"] < 0
        assert outside == (made["p"] <= 1 - level + 1e-12)
        seen.add(outside)
    assert seen == {True, False}


def test_of_too_few_samples_the_interval_holds_all():
    made = difference(2.0, 0, np.array([1.0, 2, 4]), np.zeros(3))
    assert (made["low"], made["high"], made["p"]) == (1, 4, 0.5)


def test_equal_scores_do_not_differ():
    sampled = np.random.default_rng(0).random(200)
    made = difference(0.3, 0.3, sampled, sampled)
    assert made == {"difference": 0, "low": 0, "high": 0, "p": 1}


@pytest.mark.parametrize(
    "scores",
    [
        (np.nan, 1.0, np.ones(3), np.ones(3)),
        (0.5, 0.5, np.full(3, np.nan), np.ones(3)),
        (1.0, 0.0, np.ones(0), np.ones(0)),
    ],
)
def test_what_is_undefined_is_null(scores):
    made = difference(*scores)
    assert (made["low"], made["high"], made["p"]) == (None, None, None)


def test_the_pairing_is_that_of_a_bootstrap_written_out():
    """Ties, ignored targets, a rare finding; images repeated as often as their study was taken, scikit-learn's AP."""
    rng = np.random.default_rng(5)
    n, studies, samples = 90, 40, 60
    study = rng.integers(0, studies, n)
    codes = np.unique(study, return_inverse=True)[1]
    truth = (rng.random((n, 3)) < (0.5, 0.2, 0.04)).astype(float)
    truth[rng.random((n, 3)) < 0.1] = np.nan
    scores = [np.round(rng.normal(0, 1, (n, 3)) + skill * np.nan_to_num(truth), 1) for skill in (0.4, 1.0)]
    sampled = [resample(truth, each, study, samples, seed=9) for each in scores]

    generator = np.random.default_rng(9)
    by_hand = []
    for _ in range(samples):
        picked = generator.integers(0, codes.max() + 1, codes.max() + 1)
        rows = np.concatenate([np.flatnonzero(codes == each) for each in picked])
        aps = np.full((2, 3), np.nan)
        for place in range(3):
            target = truth[rows, place]
            known = ~np.isnan(target)
            if (target == 1).any():
                for model in range(2):
                    aps[model, place] = average_precision_score(target[known], scores[model][rows, place][known])
        by_hand.append(np.nanmean(aps[1]) - np.nanmean(aps[0]))
    means = [np.nanmean(each.ap, axis=1) for each in sampled]
    np.testing.assert_allclose(means[1] - means[0], by_hand, rtol=1e-9, atol=1e-12)
    made = difference(0.6, 0.4, means[1], means[0], level=0.9)
    # level 0.9 of 60: 61 * 0.05 = 3.05, so the third of each side
    np.testing.assert_allclose((made["low"], made["high"]), (sorted(by_hand)[2], sorted(by_hand)[-3]))
    assert made["p"] == min(1, 2 * (min(np.sum(np.array(by_hand) <= 0), np.sum(np.array(by_hand) >= 0)) + 1) / 61)


def test_under_no_difference_p_is_small_as_seldom_as_it_says():
    """Two equally good models, 200 times: p is under 0.1 in about a tenth of them."""
    rng, small = np.random.default_rng(6), 0
    for _ in range(200):
        truth = (rng.random((120, 1)) < 0.4).astype(float)
        pair = [rng.normal(0, 1, (120, 1)) + truth for _ in range(2)]
        sampled = [resample(truth, each, np.arange(120), 200, seed=1).auroc[:, 0] for each in pair]
        values = [roc_auc_score(truth, each) for each in pair]
        small += difference(values[1], values[0], sampled[1], sampled[0])["p"] < 0.1
    low, high = binom.interval(0.998, 200, 0.1)
    assert low <= small <= high
