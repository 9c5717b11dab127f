"""Losses that balance findings, against their papers' formulas in NumPy's float64; soft and smoothed targets of all."""

import math

import numpy as np
import pytest
import torch

from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule
from cxrdali.runs.settings import settings_of
from shards.errors import UserError

POSITIVES, NEGATIVES = np.array([900, 40, 3, 0]), np.array([100, 960, 997, 1000])
X = np.array([[0.3, -1.2, 2.5, 0.7], [-4.0, 3.1, -0.1, -2.0], [1.7, 0.0, -3.3, 5.0], [0.2, -0.4, 1.1, -0.9]])
# the last image has no finding; NaN: ignored
Y = np.array([[1, 0, 1, 0], [1, 1, 0, math.nan], [0, math.nan, 1, 0], [0, 0, 0, 0]])
KNOWN, HARD = ~np.isnan(Y), np.nan_to_num(Y)
SOFT = np.array([[0.9, 0.05, 0.7, 0.0], [0.5, 1.0, 0.15, math.nan], [0.1, math.nan, 0.6, 0.2], [0.0, 0.1, 0.05, 0.0]])
EVERY = [*LOSSES]
TAKING_SOFT = [name for name in LOSSES if LOSSES[name]().soft]


def module(name, smoothing=0.0, **given):
    return LossModule(LOSSES[name](**given), POSITIVES, NEGATIVES, smoothing)


def terms(name, x=X, y=Y, **given):
    return module(name, **given).terms(torch.from_numpy(x), torch.from_numpy(y), 20).numpy()


def p(x):
    return 1 / (1 + np.exp(-x))


def mixed(positive, negative, y=HARD):
    return np.where(KNOWN, y * positive + (1 - y) * negative, 0)


def same(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-15)


# ---------------------------------------------------------------- each against its paper


def smoothed_ratio(y, alpha=0.1, beta=10.0, mu=0.2):
    """Wu et al., equations 3 to 5: r = (1 / n_i) / (sum of 1 / n_j over the image's findings), then their mapping."""
    n = np.maximum(POSITIVES, 1)
    out = np.empty(y.shape)
    for image, wanted in enumerate(y):
        instance = sum(target / count for target, count in zip(wanted, n, strict=True))
        for finding, count in enumerate(n):
            r = (1 / count) / instance if instance else math.inf
            out[image, finding] = alpha + 1 / (1 + math.exp(-beta * (r - mu)))
    return out


def distribution_balanced(y, gamma, kappa=0.05, sharper=2.0):
    """Equation 8, with their focal factor on the regularised logits; class priors are n / N."""
    prior = np.array([900 / 1000, 40 / 1000, 3 / 1000, 1 / 1001])  # none of 1,000 counts as one beside them
    z = X - kappa * np.log(1 / prior - 1)
    positive = (1 - p(z)) ** gamma * -np.log(p(z))
    negative = p(sharper * z) ** gamma * -np.log(1 - p(sharper * z)) / sharper
    return smoothed_ratio(y) * mixed(positive, negative, y)


@pytest.mark.parametrize("gamma", [2.0, 0.0])
def test_distribution_balanced_is_wu_s(gamma):
    same(terms("db", focal_gamma=gamma), distribution_balanced(HARD, gamma))
    same(terms("db", y=SOFT, focal_gamma=gamma), distribution_balanced(np.nan_to_num(SOFT), gamma))
    # rare and alone on an image, or on none: the largest weight; frequent beside a rare one: the smallest
    weights = LOSSES["db"]().image_weights(torch.from_numpy(HARD), dict(module("db").named_buffers())).numpy()
    assert weights[2, 2] == pytest.approx(0.1 + p(8)) and weights[3] == pytest.approx([1.1] * 4)
    assert weights[0, 0] == pytest.approx(0.1 + p(-2), abs=0.01)


def test_the_reduced_form_has_a_weight_for_each_finding_and_frequent_ones_a_margin():
    number = (1 - 0.9999 ** POSITIVES[:3]) / (1 - 0.9999)
    weights = np.append((1 / number / np.mean(1 / number)) ** 0.5, 1)
    margins = np.append(0.2 * (number - number.min()) / (number.max() - number.min()), 0)
    assert margins[0] == pytest.approx(0.2) and margins[2] == 0
    same(terms("db-reduced"), weights * mixed(-np.log(p(X - margins)), -np.log(1 - p(X))))
    assert terms("db-reduced", db_power=0.0, db_margin=0.0) == pytest.approx(terms("bce"))


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_logit_adjustment_is_menon_s_softmax_over_there_and_not(tau):
    """Their equation 10 for two classes whose logits are x and 0 and whose priors are pi and 1 - pi."""
    prior = np.array([900 / 1000, 40 / 1000, 3 / 1000, 1 / 1001])
    there, not_there = np.exp(X) * prior**tau, (1 - prior) ** tau
    positive, negative = (-np.log(each / (there + not_there)) for each in (there, not_there))
    same(terms("logit-adjustment", la_tau=tau), mixed(positive, negative))
    assert terms("logit-adjustment", la_tau=0.0) == pytest.approx(terms("bce"))


def test_asymmetric_polynomial_changes_the_first_two_coefficients_of_the_series():
    shifted = np.maximum(p(X) - 0.05, 0)
    negative = shifted**4 * -np.log(1 - shifted)
    wrong = 1 - p(X)
    series = sum(wrong**m / m for m in range(3, 4000)) + 0 * wrong + 1.75 * wrong**2  # of -log p, but for those two
    same(terms("apl"), mixed(series, negative))
    plain = terms("apl", apl_first=0.0, apl_second=0.0, apl_gamma_pos=1.0)
    assert plain == pytest.approx(terms("asl"))
    positive = wrong**2 * (-np.log(p(X)) - 0.5 * wrong + 0.25 * wrong**2)
    same(terms("apl", apl_first=0.5, apl_second=0.5, apl_gamma_pos=2.0), mixed(positive, negative))


def two_way(x, y, known, heat=4.0):
    """Kobayashi, equations 9 to 11: of each row with a positive, then of each column; the mean of each."""

    def way(rows):
        found = []
        for logits, wanted, seen in rows:
            there, not_there = logits[seen & (wanted == 1)], logits[seen & (wanted == 0)]
            if len(there):
                hardest = heat * np.log(np.exp(-there / heat).sum()) + np.log(np.exp(not_there).sum())
                found.append(np.log1p(np.exp(hardest)))
        return np.mean(found) if found else 0.0

    return way(zip(x, y, known, strict=True)) + way(zip(x.T, y.T, known.T, strict=True))


def test_two_way_compares_the_findings_of_an_image_and_the_images_of_a_finding():
    assert terms("two-way", y=HARD).mean() == pytest.approx(two_way(X, HARD, np.ones_like(KNOWN)), rel=1e-9)
    cold = terms("two-way", y=HARD, two_way_temperature=0.5).mean()
    assert cold == pytest.approx(two_way(X, HARD, np.ones_like(KNOWN), 0.5), rel=1e-9)
    # what is ignored is compared with nothing, and has no term
    found = terms("two-way")
    assert (found[~KNOWN] == 0).all()
    other = X.copy()
    other[~KNOWN] = [7.0, -9.0]
    same(terms("two-way", x=other), found)
    assert (terms("two-way", y=np.zeros((4, 4))) == 0).all()


# ---------------------------------------------------------------- of all


@pytest.mark.parametrize("name", TAKING_SOFT)
def test_a_soft_target_is_so_much_of_the_one_and_the_rest_of_the_other(name):
    loss, weights = LOSSES[name](), dict(module(name).named_buffers())
    whole = [loss.terms(torch.from_numpy(X), torch.full((4, 4), y, dtype=torch.float64), weights, 20) for y in (1, 0)]
    wanted = mixed(whole[0].numpy(), whole[1].numpy(), np.nan_to_num(SOFT))
    of_images = loss.image_weights(torch.from_numpy(np.nan_to_num(SOFT)), weights)
    same(terms(name, y=SOFT), wanted * (1 if of_images is None else of_images.numpy()))


def test_what_is_left_of_a_whole_finding_weighs_as_an_image_without_any():
    """Class-balanced weights of an image: 0.3 of a finding of weight w, and 0.7 of none; from one on, the mean."""
    loss, weights = LOSSES["cb-focal"](), {"balance": torch.tensor([0.5, 2.0, 8.0, 1.0])}
    soft = torch.tensor([[0.0, 0, 0.3, 0], [0.25, 0.75, 0, 0], [1, 0, 0.5, 0], [0, 0, 0, 0]])
    wanted = [0.3 * 8 + 0.7, 0.25 * 0.5 + 0.75 * 2, (0.5 + 4) / 1.5, 1]
    assert loss.image_weights(soft, weights)[:, 0].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("name", TAKING_SOFT)
def test_smoothing_moves_targets_and_not_the_weights_of_images(name):
    found = terms(name, smoothing=0.2)
    moved = np.nan_to_num(0.9 * Y + 0.1 * (1 - Y))
    loss, weights = LOSSES[name](), dict(module(name).named_buffers())
    plain = loss.terms(torch.from_numpy(X), torch.from_numpy(moved), weights, 20).numpy()
    of_images = loss.image_weights(torch.from_numpy(HARD), weights)
    same(found, np.where(KNOWN, plain, 0) * (1 if of_images is None else of_images.numpy()))
    assert not np.allclose(found, terms(name))


@pytest.mark.parametrize("name", EVERY)
def test_extreme_logits_give_finite_terms_and_gradients(name):
    for size in (1e4, 50.0):
        logits = torch.tensor([[size, -size, size, -size]] * 2, requires_grad=True)
        targets = torch.tensor([[1.0, 1, 0, 0], [0, math.nan, 1, 1]])
        each = module(name).terms(logits, targets, 20)
        each.sum().backward()
        assert torch.isfinite(each).all() and torch.isfinite(logits.grad).all()
        assert (each[1, 1] == 0) and (logits.grad[1, 1] == 0)


@pytest.mark.parametrize("name", ["db", "db-reduced", "logit-adjustment", "apl"])
def test_gradients_of_soft_targets_agree_with_finite_differences(name):
    soft, loss = torch.from_numpy(SOFT), module(name, smoothing=0.1)
    assert torch.autograd.gradcheck(lambda x: loss(x, soft, 20), torch.from_numpy(X).requires_grad_(True))


@pytest.mark.parametrize("given", [{"label_smoothing": 0.1}, {"uncertain": "negative; Edema=smooth"}])
def test_a_loss_of_hard_targets_refuses_soft_ones_before_anything_is_read(given):
    words = "label-smoothing 0.1" if "label_smoothing" in given else "uncertain smooth"
    with pytest.raises(UserError, match=f"loss two-way: takes no targets between 0 and 1, which {words} makes"):
        settings_of(stage=1, loss="two-way", **given)
    settings_of(stage=1, loss="two-way", uncertain="negative; smooth=ignore")  # a finding of that name
    assert settings_of(stage=1, loss="db", **given).data.soft_targets == words


@pytest.mark.parametrize(
    ("loss", "given", "message"),
    [
        ("db", {"db_beta": 0.0}, "db-beta 0.0: above 0"),
        ("db", {"la_tau": 1.0}, "la-tau 1.0: the loss db has no such parameter; it has db-alpha"),
        ("apl", {"apl_first": 1.5}, "apl-first 1.5: 0 to 1"),
        ("db-reduced", {"db_power": -1.0}, "db-power -1.0: 0 or more"),
        ("two-way", {"two_way_temperature": 0.0}, "two-way-temperature 0.0: above 0"),
        ("bce", {"label_smoothing": 1.0}, "label-smoothing 1.0: 0 or more, below 1"),
    ],
)
def test_wrong_parameters_are_named(loss, given, message):
    with pytest.raises(UserError, match=message):
        settings_of(stage=1, loss=loss, **given)
