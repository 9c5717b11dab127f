import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from cxrdali.metrics.calibration_error import brier, curves, ece, pooled


def by_hand(target, probability, bins):
    """A loop over bins, as the definition reads."""
    error, known = 0.0, [(t, p) for t, p in zip(target, probability, strict=True) if t == t]
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = [(t, p) for t, p in known if low <= p < high or (k == bins - 1 and p == 1)]
        if inside:
            share = sum(t for t, _ in inside) / len(inside)
            mean = sum(p for _, p in inside) / len(inside)
            error += len(inside) / len(known) * abs(share - mean)
    return error


def made(images=500, findings=4, seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.random((images, findings)) ** 3
    truth = (rng.random((images, findings)) < probabilities**1.3).astype(np.float32)
    truth[rng.random((images, findings)) < 0.1] = np.nan
    return truth, probabilities


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_ece_is_the_loop_over_bins(bins):
    truth, probabilities = made()
    wanted = [by_hand(truth[:, j].tolist(), probabilities[:, j].tolist(), bins) for j in range(4)]
    np.testing.assert_allclose(ece(truth, probabilities, bins), wanted, rtol=1e-12)


def test_worked_by_hand():
    # two bins: 0.1 and 0.3 (no positive) and 0.5, 0.7, 0.9 (two positives)
    truth = np.array([[0], [0], [1], [0], [1]], dtype=np.float32)
    probabilities = np.array([[0.1], [0.3], [0.5], [0.7], [0.9]])
    assert ece(truth, probabilities, 2) == pytest.approx([2 / 5 * 0.2 + 3 / 5 * abs(2 / 3 - 0.7)])
    assert brier(truth, probabilities) == pytest.approx([(0.01 + 0.09 + 0.25 + 0.49 + 0.01) / 5])
    (curve,) = curves(truth, probabilities, 2)
    assert curve.images.tolist() == [2, 3]
    assert curve.probability == pytest.approx([0.2, 0.7]) and curve.share == pytest.approx([0, 2 / 3])


def test_an_edge_belongs_to_the_bin_above_it_and_one_to_the_last():
    edges = np.arange(16) / 15
    (curve,) = curves(np.ones((16, 1)), edges[:, None], 15)
    assert curve.images.tolist() == [1] * 14 + [2]
    below = np.nextafter(edges[1:], 0)[:, None]
    assert curves(np.ones((15, 1)), below, 15)[0].images.tolist() == [1] * 15


def test_brier_is_scikit_learn_s():
    truth, probabilities = made(seed=1)
    known = ~np.isnan(truth)
    wanted = [brier_score_loss(truth[known[:, j], j], probabilities[known[:, j], j]) for j in range(4)]
    np.testing.assert_allclose(brier(truth, probabilities), wanted, rtol=1e-12)


def test_what_is_not_known_does_not_count():
    truth, probabilities = made()
    known = ~np.isnan(truth[:, 0])
    assert ece(truth, probabilities)[0] == ece(truth[known, :1], probabilities[known, :1])[0]
    truth[:, 2] = np.nan
    assert np.isnan(ece(truth, probabilities)[2]) and np.isnan(brier(truth, probabilities)[2])
    assert not np.isnan(ece(truth, probabilities)[[0, 1, 3]]).any()


def test_the_pooled_curve_is_that_of_one_long_column():
    truth, probabilities = made()
    (long,) = curves(truth.T.reshape(-1, 1), probabilities.T.reshape(-1, 1))
    short = pooled(truth, probabilities)
    assert short.images.tolist() == long.images.tolist() and short.ece == pytest.approx(long.ece)


def test_perfect_and_worst():
    truth = np.array([[0, 1], [1, 0]], dtype=np.float32)
    assert ece(truth, truth).tolist() == [0, 0] and brier(truth, truth).tolist() == [0, 0]
    assert ece(truth, 1 - truth).tolist() == [1, 1] and brier(truth, 1 - truth).tolist() == [1, 1]


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="outside 0..1"):
        ece(np.zeros((1, 1)), np.array([[1.01]]))
    with pytest.raises(ValueError, match="outside 0..1, or are NaN"):
        brier(np.zeros((1, 1)), np.array([[np.nan]]))
    with pytest.raises(ValueError, match=r"targets \(1, 1\), probabilities \(1, 2\)"):
        brier(np.zeros((1, 1)), np.zeros((1, 2)))
