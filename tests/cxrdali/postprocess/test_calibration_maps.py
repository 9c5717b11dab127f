from math import log

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrdali.postprocess.calibration_maps import (  # fmt: skip
    CLIP,
    IDENTITY,
    LEAST,
    TILT,
    Affine,
    Isotonic,
    fit_isotonic,
    fit_platt,
    fit_temperature,
)

FITS = (fit_temperature, fit_platt, fit_isotonic)


def made(images=3000, seed=0, prevalence=0.1, scale=1.7, shift=0.4):
    """Targets and overconfident, shifted logits."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(images) < prevalence).astype(np.float32)
    logits = scale * (rng.normal(size=images) + 1.8 * truth + log(prevalence / (1 - prevalence))) + shift
    return truth, logits.astype(np.float32)


def steps(*levels):
    """Targets and logits: at each (logit, positives, negatives) that many images."""
    truth = np.concatenate([[1] * positives + [0] * negatives for _, positives, negatives in levels])
    return truth.astype(np.float32), np.repeat([level[0] for level in levels], [sum(level[1:]) for level in levels])


def loss(truth, logits):
    """Mean negative log-likelihood, float64."""
    return float(np.mean(np.logaddexp(0, logits) - truth * logits))


# ------------------------------------------------------------ temperature


def test_temperature_worked_by_hand():
    # at logit 1 80 % are positive, at -1 20 %: sigmoid(1 / T) = 0.8, so T = 1 / log 4
    found, reason = fit_temperature(*steps((1.0, 40, 10), (-1.0, 10, 40)))
    assert reason == "" and found.offset == 0
    assert 1 / found.slope == pytest.approx(1 / log(4), rel=1e-10)


def test_temperature_is_the_minimum_that_a_search_finds():
    truth, logits = made()
    values = logits.astype(np.float64)
    searched = minimize_scalar(lambda t: loss(truth, values / np.exp(t)), bounds=(-3, 3), options={"xatol": 1e-9})
    assert 1 / fit_temperature(truth, logits)[0].slope == pytest.approx(np.exp(searched.x), rel=1e-5)


@pytest.mark.parametrize("true", [0.2, 1.0, 30.0])
def test_a_temperature_is_found_again(true):
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2, size=200_000)
    truth = (rng.random(len(logits)) < expit(logits)).astype(np.float32)
    assert 1 / fit_temperature(truth, true * logits)[0].slope == pytest.approx(true, rel=0.03)


def test_one_temperature_for_a_whole_table_counts_every_known_value_once():
    truth, logits = made()
    table, targets = logits.reshape(-1, 3), truth.reshape(-1, 3).copy()
    assert fit_temperature(targets, table) == fit_temperature(truth, logits)
    targets[:7, 1] = np.nan
    known = ~np.isnan(targets)
    assert fit_temperature(targets, table) == fit_temperature(targets[known], table[known])


# ------------------------------------------------------------ Platt


def test_platt_worked_by_hand():
    # two logits and two parameters: the line goes through both shares, 20 % at 0 and 60 % at 2
    found, reason = fit_platt(*steps((0.0, 10, 40), (2.0, 30, 20)))
    slope = (log(0.6 / 0.4) - log(0.2 / 0.8)) / 2
    assert reason == "" and found.slope == pytest.approx(slope, rel=1e-6)
    assert found.offset == pytest.approx(log(0.2 / 0.8), rel=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_platt_is_the_minimum_that_a_search_finds(scale):
    truth, logits = made(scale=scale, prevalence=0.03)
    found, _ = fit_platt(truth, logits)
    values = (logits / scale).astype(np.float64)
    searched = minimize(lambda line: loss(truth, line[0] * values + line[1]), (1.0, 0.0), tol=1e-10)
    assert found.slope * scale == pytest.approx(searched.x[0], rel=1e-3)
    assert loss(truth, found(logits)) <= searched.fun + 1e-9
    error = expit(found(logits)) - truth  # zero at the maximum of the likelihood, also along the logits
    assert abs(error.mean()) < 1e-6 and abs((error * values).mean()) < 1e-5


# ------------------------------------------------------------ isotonic


def test_isotonic_worked_by_hand():
    # shares 0.1, 0.5, 0.3, 0.9 at logits 0 to 3: the middle two pool to 0.4
    found, reason = fit_isotonic(*steps((0.0, 2, 18), (1.0, 10, 10), (2.0, 6, 14), (3.0, 18, 2)))
    assert reason == "" and found.centre == 1.5 and found.tilt == pytest.approx(TILT / 3)
    assert found.logits == (0, 1, 2, 3) and found.probabilities == pytest.approx((0.1, 0.4, 0.4, 0.9))
    asked = np.array([-1.0, 0.5, 1.5, 2.5, 9.0])
    wanted = np.array([0.1, 0.25, 0.4, 0.65, 0.9])
    np.testing.assert_allclose(found(asked) - TILT / 3 * (asked - 1.5), np.log(wanted / (1 - wanted)), rtol=1e-9)


def test_isotonic_is_scikit_learn_s_but_for_the_tilt():
    truth, logits = made()
    found, _ = fit_isotonic(truth, logits)
    model = IsotonicRegression(y_min=CLIP, y_max=1 - CLIP, out_of_bounds="clip").fit(logits.astype(np.float64), truth)
    asked = made(seed=5)[1]
    plain = expit(found(asked) - found.tilt * (asked.astype(np.float64) - found.centre))
    np.testing.assert_allclose(plain, model.predict(asked.astype(np.float64)), atol=1e-9)
    range_ = np.array([logits.min(), logits.max()])
    tilted = found.tilt * (range_.astype(np.float64) - found.centre)
    assert tilted[1] - tilted[0] == pytest.approx(TILT) and np.abs(tilted).max() < TILT


def test_isotonic_stays_finite_and_within_its_range():
    truth, logits = steps((-3.0, 0, 30), (0.0, 5, 5), (3.0, 30, 0))  # 0 and 1 at the ends
    found, _ = fit_isotonic(truth, logits)
    assert found.probabilities[0] == CLIP and found.probabilities[-1] == 1 - CLIP
    far = found(np.array([-1000.0, -3.0, 0.0, 3.0, 1000.0]))
    assert np.isfinite(far).all() and (np.diff(far) > 0).all()


# ------------------------------------------------------------ order


@pytest.mark.parametrize("fit", FITS)
def test_images_are_never_reordered(fit):
    truth, logits = made(images=4000)
    found, _ = fit(truth, logits)
    asked = np.unique(made(seed=3, images=4000)[1])
    assert (np.diff(found(asked)) > 0).all()


@pytest.mark.parametrize(("fit", "most"), [(fit_temperature, 1e-6), (fit_platt, 1e-6), (fit_isotonic, 5e-4)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_average_precision_stays_as_a_float32_table_shows_it(fit, most, scale):
    for seed, prevalence in ((0, 0.3), (1, 0.03), (2, 0.004)):
        found, reason = fit(*made(20_000, seed, prevalence, scale))
        truth, logits = made(20_000, seed + 10, prevalence, scale)
        after = found(logits).astype(np.float32)
        assert reason == "" and (after != logits).all()
        before = average_precision_score(truth, logits)
        assert average_precision_score(truth, after) == pytest.approx(before, abs=most)


# ------------------------------------------------------------ what cannot be fitted


@pytest.mark.parametrize("fit", FITS)
def test_too_few_of_a_class_or_equal_logits_stay_as_they_are(fit):
    few, values = steps((0.0, LEAST - 1, 50), (1.0, 0, 50))
    assert fit(few, values) == (IDENTITY, "9 positive of at least 10")
    assert fit(1 - few, values) == (IDENTITY, "9 negative of at least 10")
    assert fit(np.zeros(50), np.arange(50.0)) == (IDENTITY, "0 positive of at least 10")
    assert fit(np.full(50, np.nan), np.arange(50.0)) == (IDENTITY, "0 positive of at least 10")
    assert fit(*steps((2.0, 20, 20))) == (IDENTITY, "all its logits are equal")


def test_separated_and_reversed_classes_have_no_finite_rule():
    apart = steps((-1.0, 0, 20), (1.0, 20, 0))
    assert fit_temperature(*apart) == (IDENTITY, "its logits separate the classes, no temperature is best")
    assert fit_platt(*apart) == (IDENTITY, "its logits separate the classes, no slope is best")
    assert fit_platt(*steps((-1.0, 0, 20), (1.0, 20, 5), (2.0, 5, 3)))[1] == ""  # they overlap
    assert "separate" in fit_platt(*steps((-1.0, 0, 20), (0.0, 5, 5), (1.0, 20, 0)))[1]  # they only touch
    backwards = steps((-1.0, 20, 5), (1.0, 5, 20))  # of 625 pairs, 25 rank well and 200 are tied
    for fit in FITS:
        assert fit(*backwards) == (IDENTITY, "its logits rank the images no better than chance (AUROC 0.200)")
    for fit in (fit_temperature, fit_platt):
        assert fit(*steps((-1.0, 20, 0), (1.0, 0, 20)))[1].endswith("no better than chance (AUROC 0.000)")


@pytest.mark.parametrize("shift", [-8, 8])
@pytest.mark.parametrize("prevalence", [0.1, 0.9])
def test_shifted_logits_are_said_to_be_shifted(prevalence, shift):
    truth, logits = made(prevalence=prevalence, scale=1.0, shift=shift)
    found, reason = fit_temperature(truth, logits)
    wanted = roc_auc_score(truth, logits)
    assert 0.87 < wanted < 0.93
    if (shift > 0) == (prevalence < 0.5):  # the other way, a high temperature makes rare findings rare again
        assert found is IDENTITY and "chance" not in reason
        assert reason == (
            f"its logits are shifted as a whole (AUROC {wanted:.3f}), which no temperature corrects, and Platt's "
            "method can"
        )
    else:
        assert reason == "" and 1 / found.slope > 1
    line, reason = fit_platt(truth, logits)
    assert reason == "" and expit(line(logits)).mean() == pytest.approx(truth.mean(), abs=1e-6)


def test_shifted_logits_that_separate_the_classes_are_not_sent_to_platt():
    truth, logits = steps((5.0, 0, 40), (9.0, 10, 0))
    assert fit_temperature(truth, logits) == (
        IDENTITY, "its logits are shifted as a whole (AUROC 1.000), which no temperature corrects"
    )  # fmt: skip
    assert "separate" in fit_platt(truth, logits)[1]


def test_a_few_outliers_are_not_a_ranking_by_chance():
    """30 of 33 positives rank above all negatives, three lie so low that no slope above 0 is best."""
    truth, logits = steps((-1000.0, 3, 0), (-1.0, 0, 60), (1.0, 30, 0))
    wanted = "for outlying logits, its positives' mean logit is no higher, though most rank higher (AUROC 0.909)"
    assert roc_auc_score(truth, logits) == pytest.approx(30 / 33)
    assert fit_platt(truth, logits) == fit_temperature(truth, logits) == (IDENTITY, wanted)


@pytest.mark.parametrize(("scale", "reason"), [(1e-5, "below 0.001"), (1e5, "above 1000")])
def test_a_temperature_out_of_range_is_not_called_separated(scale, reason):
    truth, logits = made(scale=1.0, shift=0.0)
    assert fit_temperature(truth, logits.astype(np.float64) * scale) == (IDENTITY, f"its best temperature is {reason}")
    assert fit_platt(truth, logits.astype(np.float64) * scale)[1] == ""


@pytest.mark.parametrize("slope", [0.0, -1.0, float("nan"), float("inf")])
def test_a_map_that_does_not_rise_is_refused(slope):
    with pytest.raises(ValueError, match="finite, and the slope above 0"):
        Affine(slope)


@pytest.mark.parametrize(
    ("knots", "values", "message"),
    [
        ((0.0, 0.0), (0.1, 0.2), "each logit above the one before"),
        ((0.0, 1.0), (0.1,), "as many logits as probabilities"),
        ((), (), "as many logits as probabilities"),
        ((0.0, 1.0), (0.2, 0.1), "none below the one before"),
        ((0.0, 1.0), (0.2, 1.0), "within 0.0001..0.9999"),
    ],
)
def test_isotonic_knots_are_checked(knots, values, message):
    with pytest.raises(ValueError, match=message):
        Isotonic(knots, values, 0.1, 0.0)
