import time
import warnings
from itertools import combinations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss

from cxrdali.metrics import calibration_error
from cxrdali.metrics.calibration_error import (  # fmt: skip
    KINDS,
    brier,
    brier_difference,
    curves,
    ece,
    ece_debiased,
    ece_equal_mass,
    errors,
    floors,
    pooled,
)


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


# ------------------------------------------------------------ equal mass, debiased


def equal_mass_by_hand(target, probability, bins):
    """Lists of (target, probability): a value's bin is by how many values are lower."""
    known = [(t, p) for t, p in zip(target, probability, strict=True) if t == t]
    place = [sum(other < p for _, other in known) * bins // len(known) for _, p in known]
    return [[each for each, k in zip(known, place, strict=True) if k == wanted] for wanted in sorted(set(place))]


@pytest.mark.parametrize(("bins", "rounded"), [(1, 9), (3, 9), (15, 9), (15, 1), (15, 0)])
def test_equal_mass_and_debiased_are_the_loops_over_bins(bins, rounded):
    truth, probabilities = made(images=200, findings=2)
    probabilities = probabilities.round(rounded)  # to one digit there are 11 values, to none two
    for column in range(2):
        parts = equal_mass_by_hand(truth[:, column].tolist(), probabilities[:, column].tolist(), bins)
        known = sum(map(len, parts))
        wanted = sum(abs(sum(t - p for t, p in part)) for part in parts) / known
        assert ece_equal_mass(truth, probabilities, bins)[column] == pytest.approx(wanted)
        parts = [part for part in parts if len(part) > 1]
        pairs = [[(t - p) * (u - q) for (t, p), (u, q) in combinations(part, 2)] for part in parts]
        square = sum(len(part) * np.mean(each) for part, each in zip(parts, pairs, strict=True)) / sum(map(len, parts))
        wanted = np.sign(square) * abs(square) ** 0.5
        assert ece_debiased(truth, probabilities, bins)[column] == pytest.approx(wanted)


def test_equal_mass_bins_hold_equally_many_images():
    rng = np.random.default_rng(0)
    order = rng.permutation(150)
    probabilities = np.arange(150) / 1000  # in three bins of equal width
    truth = np.arange(150) >= 75  # of 15 bins of ten images, the middle one holds five with and five without
    wanted = np.abs((truth - probabilities).reshape(15, 10).mean(axis=1)).mean()
    found = ece_equal_mass(truth[order, None].astype(np.float32), probabilities[order, None])
    assert found[0] == pytest.approx(wanted) and ece(truth[:, None], probabilities[:, None])[0] != pytest.approx(wanted)


def test_what_is_undefined_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing, half, ones = np.full((5, 1), np.nan), np.full((5, 1), 0.5), np.ones((5, 1))
        assert all(np.isnan(kind(nothing, half)[0]) for kind in KINDS.values())
        assert set(floors("macro", nothing, half)["macro_ECE"].values()) == {None}
        assert ece_equal_mass(ones[:1], half[:1]) == [0.5] and np.isnan(ece_debiased(ones[:1], half[:1])[0])
        assert floors("macro", ones[:1], half[:1])["macro_ECE_debiased"] == {"mean": None, "p95": None}
        assert ece_debiased(ones, half)[0] == pytest.approx(0.5)  # a single value: one bin
        assert errors(np.hstack([nothing, ones]), np.hstack([half, half]))["macro_ECE"] == 0.5


def simulated(prevalence, images, shift, seed, tables):
    """Tables of labels that are sampled with true probabilities, and given ones with logits off by `shift`."""
    rng = np.random.default_rng(seed)
    logits = 1.8 * rng.normal(size=(tables, images, 1)) + np.log(prevalence / (1 - prevalence)) - 1
    truth = (rng.random(logits.shape) < expit(logits)).astype(np.float32)
    return zip(truth, expit(logits + shift), strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("prevalence", [0.002, 0.02, 0.3])
@pytest.mark.parametrize("images", [500, 5000])
def test_the_debiased_error_has_the_smallest_bias_when_perfect_and_none_of_its_square_when_off(prevalence, images):
    """Perfect: the true error is 0. Off: it is the root mean square of what a million images have in the 15 bins."""
    scores = [[kind(*table)[0] for kind in KINDS.values()] for table in simulated(prevalence, images, 0.0, 1, 150)]
    width, mass, debiased = np.abs(np.mean(scores, axis=0))
    assert debiased < 0.4 * min(width, mass)
    ((_, given),) = simulated(prevalence, 300_000, 1.0, 2, 1)
    given = np.sort(given[:, 0]).reshape(15, -1)
    true = np.mean((given - expit(np.log(given / (1 - given)) - 1)).mean(axis=1) ** 2)
    squares = [(root := ece_debiased(*table)[0]) * abs(root) for table in simulated(prevalence, images, 1.0, 3, 150)]
    assert np.mean(squares) == pytest.approx(true, abs=4 * np.std(squares) / 150**0.5)


# ------------------------------------------------------------ floor


def test_the_floor_is_what_labels_sampled_from_the_probabilities_show():
    """By sampling every known label by itself."""
    rng = np.random.default_rng(5)
    truth, probabilities = made(images=600, findings=3, seed=2)
    probabilities = probabilities * [1, 0.2, 0.02]
    unknown, tables = np.isnan(truth), []
    for _ in range(300):
        sampled = np.where(unknown, np.nan, rng.random(truth.shape) < probabilities)
        flat = sampled.reshape(-1, 1), probabilities.reshape(-1, 1)
        macros = [kind(sampled, probabilities).mean() for kind in KINDS.values()]
        tables.append([*macros, *(kind(*flat)[0] for kind in KINDS.values())])
    found = errors(truth, probabilities)["ECE_floor"]
    assert list(found) == [f"{mean}_{name}" for mean in ("macro", "pooled") for name in KINDS]
    for row, wanted in zip(found.values(), np.transpose(tables), strict=True):
        error = 4 * wanted.std() * (1 / 300 + 1 / calibration_error.SAMPLES) ** 0.5
        assert row["mean"] == pytest.approx(wanted.mean(), abs=error)
        assert row["p95"] == pytest.approx(np.quantile(wanted, 0.95), abs=2 * error)
    assert errors(truth, probabilities)["ECE_floor"] == found  # the same at every call


def test_a_perfect_model_stays_at_the_floor_and_a_wrong_one_does_not():
    (perfect,), (off,) = (simulated(0.1, 3000, shift, 4, 1) for shift in (0.0, 0.7))
    for table, above in ((perfect, False), (off, True)):
        found = errors(*table)
        for name, floor in found["ECE_floor"].items():
            assert (found[name] > floor["p95"]) == above and floor["mean"] < floor["p95"]


def test_errors_are_the_means_over_findings_and_of_the_flattened_table():
    truth, probabilities = made(findings=4)
    found = errors(truth, probabilities)
    for name, kind in KINDS.items():
        assert found[f"macro_{name}"] == pytest.approx(kind(truth, probabilities).mean())
        long = kind(truth.T.reshape(-1, 1), probabilities.T.reshape(-1, 1))[0]
        assert found[f"pooled_{name}"] == pytest.approx(long)


@pytest.mark.slow
def test_fifty_thousand_images_take_seconds():
    truth, probabilities = made(images=50_000, findings=26)
    start = time.process_time()
    errors(truth, probabilities)
    assert time.process_time() - start < 5


# ------------------------------------------------------------ difference of Brier scores


def test_the_brier_difference_is_that_of_the_macro_scores_and_its_interval_that_of_resampled_patients():
    truth, before = made(images=900, findings=3, seed=7)
    after = before**1.3
    found = brier_difference(truth, before, after, np.repeat(np.arange(300), 3))
    assert found["difference"] == pytest.approx(np.mean(brier(truth, after) - brier(truth, before)))
    rng, sampled, rows = np.random.default_rng(0), [], np.arange(900).reshape(300, 3)
    for _ in range(1500):
        taken = rows[rng.integers(0, 300, 300)].reshape(-1)
        sampled.append(np.mean(brier(truth[taken], after[taken]) - brier(truth[taken], before[taken])))
    half = (found["high"] - found["low"]) / 2
    assert found["low"] == pytest.approx(found["difference"] - half)
    assert half == pytest.approx(1.96 * np.std(sampled), rel=0.08)


def test_images_of_a_patient_go_together_and_equal_predictions_do_not_differ():
    truth, before = made(images=200, findings=2, seed=8)
    patient = np.arange(200)
    twice = [np.concatenate([each, each]) for each in (truth, before, before**2, patient)]
    once = brier_difference(truth, before, before**2, patient)
    assert brier_difference(*twice) == pytest.approx(once)
    assert brier_difference(*twice[:3], np.arange(400))["low"] > once["low"]  # as if they were other patients
    assert brier_difference(truth, before, before, patient) == {"difference": 0, "low": 0, "high": 0}
