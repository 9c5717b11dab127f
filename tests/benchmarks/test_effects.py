"""The arithmetic of `benchmarks.effects`, against SciPy's own tests and values computed by hand, and its pages."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.effects.statistics import EQUIVALENT, HIGHER, LOWER, OPEN, holm, paired, verdicts


def test_paired_differences_are_scipys_t_tests():
    before, after = np.array([0.31, 0.28, 0.33, 0.30, 0.29]), np.array([0.318, 0.283, 0.334, 0.309, 0.291])
    found, scipys = paired(after - before, 0.01), stats.ttest_rel(after, before)
    interval = scipys.confidence_interval(0.95)
    assert found.p == pytest.approx(scipys.pvalue) and found.mean == pytest.approx(0.005)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    inside = [
        stats.ttest_1samp(after - before, bound, alternative=side).pvalue
        for bound, side in ((-0.01, "greater"), (0.01, "less"))
    ]
    assert found.p_outside == pytest.approx(max(inside))
    mirrored = paired(before - after, 0.01)
    assert (mirrored.p, mirrored.p_outside, mirrored.high) == pytest.approx((found.p, found.p_outside, -found.low))


def test_a_known_interval_by_hand():
    """Differences 1 to 5: mean 3, sd sqrt(2.5), error sqrt(0.5), and t(0.975, 4) = 2.7764451."""
    found = paired([1, 2, 3, 4, 5], 1)
    reach = 2.7764451 * 0.5**0.5
    assert (found.low, found.high) == pytest.approx((3 - reach, 3 + reach))
    assert found.p_outside == pytest.approx(1 - stats.t.sf(2 / 0.5**0.5, 4))


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling, at most 1."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1]) and holm([0.2]) == pytest.approx([0.2])


def test_the_words_follow_both_families():
    up, down = [0.02, 0.021, 0.019, 0.02, 0.022], [-0.02, -0.021, -0.019, -0.02, -0.022]
    same, wide = [0.0001, -0.0002, 0.0003, -0.0001, 0.0], [0.03, -0.02, 0.01, -0.03, 0.02]
    found = [paired(each, 0.005) for each in (up, down, same, wide)]
    assert verdicts(found) == [HIGHER, LOWER, EQUIVALENT, OPEN]
    one = paired([0.004, 0.012, 0.008, 0.003, 0.011], 0.005)  # p 0.014
    assert verdicts([one]) == [HIGHER] and verdicts([one, *[paired(wide, 0.005)] * 9])[0] == OPEN
