import numpy as np
import pytest
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score, roc_auc_score

from cxrdali.metrics.ranking import score


def random_case(seed=0, images=400, findings=4):
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, findings)) < [0.4, 0.1, 0.02, 0.3]).astype(float)
    return targets, np.round(rng.normal(size=targets.shape) + targets, 1)  # rounded: ties


def test_scores_equal_scikit_learn_s():
    targets, values = random_case()
    found = score(tuple("ABCD"), targets, values)
    for place in range(4):
        assert found.ap[place] == average_precision_score(targets[:, place], values[:, place])
        assert found.auroc[place] == roc_auc_score(targets[:, place], values[:, place])
    assert found.lrap == label_ranking_average_precision_score(targets, values)
    assert found.macro_ap == pytest.approx(found.ap.mean())


def test_average_precision_by_hand():
    """Ranked positive, negative, positive: (1/1 + 2/3) / 2."""
    found = score(("A",), np.array([[1.0], [0], [1]]), np.array([[3.0], [2], [1]]))
    assert found.ap[0] == pytest.approx((1 + 2 / 3) / 2) and found.auroc[0] == 0.5


def test_a_finding_without_positives_has_no_score_and_is_listed():
    targets, values = random_case()
    targets[:, 1] = 0
    found = score(tuple("ABCD"), targets, values)
    assert np.isnan(found.ap[1]) and np.isnan(found.auroc[1]) and found.without_positives == ["B"]
    assert found.macro_ap == pytest.approx(found.ap[[0, 2, 3]].mean())


def test_a_finding_without_negatives_has_no_score_and_is_listed():
    targets, values = random_case()
    targets[:, 2] = np.where(targets[:, 2] == 1, 1, np.nan)  # as "No Finding", 1 or blank, with blanks ignored
    targets[:, 3] = np.nan
    found = score(tuple("ABCD"), targets, values)
    assert np.isnan(found.ap[2:]).all() and np.isnan(found.auroc[2:]).all()
    assert (found.without_positives, found.without_negatives, found.scored) == (["D"], ["C"], ["A", "B"])
    assert found.without_ap == "no positive: D; no negative: C"
    both = [average_precision_score(targets[:, place], values[:, place]) for place in (0, 1)]
    assert found.macro_ap == pytest.approx(np.mean(both), abs=1e-15)


def test_ignored_targets_do_not_count():
    targets, values = random_case()
    masked = targets.copy()
    masked[::3, 0] = np.nan
    found = score(tuple("ABCD"), masked, values)
    kept = ~np.isnan(masked[:, 0])
    assert found.ap[0] == average_precision_score(targets[kept, 0], values[kept, 0])
    assert found.positives[0] + found.negatives[0] == kept.sum()


def test_nothing_defined_is_nan_not_zero():
    found = score(("A",), np.zeros((3, 1)), np.zeros((3, 1)))
    assert np.isnan(found.macro_ap) and np.isnan(found.macro_auroc)


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="scores hold NaN"):
        score(("A",), np.ones((2, 1)), np.array([[np.nan], [1]]))
