import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from cxrdali.metrics.decisions import METRICS, score_decisions


def test_worked_by_hand():
    truth = np.array([[1], [1], [1], [0], [0], [np.nan]])
    called = np.array([[True], [True], [False], [True], [False], [True]])
    scores = score_decisions(truth, called)  # 2 hits, 1 miss, 1 alarm, 1 rejection
    assert [getattr(scores, name)[0] for name in METRICS] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1 / 2])


def test_as_scikit_learn():
    rng = np.random.default_rng(0)
    truth = (rng.random((300, 4)) < (0.5, 0.2, 0.05, 0.9)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.1] = np.nan
    called = rng.random(truth.shape) < (0.4, 0.3, 0.1, 0.8)
    scores = score_decisions(truth, called)
    for place in range(4):
        known = ~np.isnan(truth[:, place])
        target, decided = truth[known, place], called[known, place]
        assert scores.F1[place] == pytest.approx(f1_score(target, decided))
        assert scores.precision[place] == pytest.approx(precision_score(target, decided))
        assert scores.recall[place] == pytest.approx(recall_score(target, decided))
        assert scores.specificity[place] == pytest.approx(recall_score(1 - target, ~decided))
    assert scores.macro("F1") == pytest.approx(scores.F1.mean())


def test_what_is_not_defined_is_not_zero():
    truth = np.array([[0, 1, 1], [0, 1, 0]], dtype=np.float32)
    called = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    scores = score_decisions(truth, called)
    np.testing.assert_array_equal(scores.F1, [np.nan, np.nan, 0])  # without a negative, calling all positive is right
    np.testing.assert_array_equal(scores.precision, [np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(scores.recall, [np.nan, 1, 0])
    np.testing.assert_array_equal(scores.specificity, [0.5, np.nan, 1])
    assert scores.macro("F1") == 0 and scores.macro("recall") == 0.5
    with pytest.raises(ValueError, match="must agree"):
        score_decisions(truth, called[:1])
