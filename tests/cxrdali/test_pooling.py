from decimal import Decimal, getcontext
from math import exp, log

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import gmean, rankdata

from cxrdali.postprocess.options import POOLINGS
from cxrdali.predictions import METHODS, geometric_logit, mean_logit, mean_rank_logit
from shards.errors import UserError


def exact(logits, weights):
    """The logit of the weighted mean probability with 1,000 digits, so that nothing saturates."""
    getcontext().prec = 1000
    shares = [Decimal(float(weight)) for weight in weights]
    chances = [1 / (1 + (-Decimal(float(value))).exp()) for value in logits]
    mean = sum(share * chance for share, chance in zip(shares, chances, strict=True)) / sum(shares)
    return float((mean / (1 - mean)).ln())


def test_it_is_the_logit_of_the_mean_probability():
    values = np.random.default_rng(0).normal(0, 4, (3, 50, 4)).astype(np.float32)
    made = mean_logit(values)
    assert made.dtype == np.float32 and made.shape == (50, 4)
    np.testing.assert_allclose(made, logit(expit(values.astype(np.float64)).mean(axis=0)), rtol=1e-6, atol=1e-7)
    weighted = logit(np.average(expit(values.astype(np.float64)), axis=0, weights=[1, 2, 5]))
    np.testing.assert_allclose(mean_logit(values, (1, 2, 5)), weighted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("values", "weights"),
    [((20, 40), (1, 1)), ((-1000, 1000), (1, 1)), ((1000, 998), (1, 1)), ((-30, -90, 2), (3, 1, 1e-6)),
     ((700, -700), (1, 3)), ((17.5, 17.5001), (1, 1))],
)  # fmt: skip
def test_nothing_saturates(values, weights):
    column = np.array(values, dtype=np.float32)[:, None]
    made = mean_logit(column, weights)
    np.testing.assert_allclose(made, [exact(column[:, 0], weights)], rtol=1e-6, atol=1e-9)


def test_worked_by_hand():
    thirds = np.array([[log(3)], [-log(3)]], dtype=np.float32)  # 0.75 and 0.25
    assert mean_logit(thirds) == pytest.approx(0, abs=1e-7)
    assert mean_logit(thirds, (3, 1)) == pytest.approx(log(0.625 / 0.375))
    assert mean_logit(np.array([[1000.0], [998.0]])) == pytest.approx(1000 - log((1 + exp(2)) / 2))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_tables_give_the_table_back(count):
    values = np.concatenate(
        [np.random.default_rng(1).normal(0, 10, 1000), [0, 1000, -1000, 3e38, -3e38, np.finfo(np.float32).max]]
    ).astype(np.float32)
    np.testing.assert_allclose(mean_logit(np.stack([values] * count)), values, rtol=2e-7, atol=1e-14)


@pytest.mark.parametrize("weights", [(1,), (1, 1, 1), (1, 0), (1, -1), (1, float("nan")), (1, float("inf"))])
def test_wrong_weights_are_named(weights):
    for pool in METHODS.values():
        with pytest.raises(UserError, match=r"^weights \[.*\]: give 2, one per table, each above 0$"):
            pool(np.zeros((2, 3, 1)), weights)


def test_the_geometric_mean_is_that_of_the_probabilities_normalised():
    values = np.random.default_rng(3).normal(0, 4, (3, 50, 4)).astype(np.float32)
    weights = np.array([1, 2, 5]) / 8
    chances = expit(values.astype(np.float64))
    shares = np.broadcast_to(weights[:, None, None], chances.shape)
    yes, no = (gmean(each, axis=0, weights=shares) for each in (chances, 1 - chances))
    made = geometric_logit(values, (1, 2, 5))
    assert made.dtype == np.float32
    np.testing.assert_allclose(expit(made.astype(np.float64)), yes / (yes + no), rtol=1e-6)
    assert geometric_logit(np.array([[1000.0], [-998.0]])) == pytest.approx(1)
    largest = np.finfo(np.float32).max
    assert geometric_logit(np.full((3, 1), largest, dtype=np.float32)) == largest


def test_ranks_worked_by_hand():
    # 7 is the highest of four: (4 - 1/2) / 4; the two zeros share ranks 2 and 3
    table = np.array([[7.0], [0], [0], [-1e30]])
    made = mean_rank_logit(np.stack([table, table]))
    np.testing.assert_allclose(expit(made[:, 0]), [0.875, 0.5, 0.5, 0.125], rtol=1e-6)
    assert made.dtype == np.float32 and (mean_rank_logit(np.full((2, 1, 3), 9.0)) == 0).all()
    # ranks 1, 3, 2 and 3, 1, 2: three equal means, which weights of 1/3 each would round apart
    made = mean_rank_logit(np.array([[[0.1], [0.3], [0.2]], [[3], [1], [2]], [[5], [5], [5]]], dtype=np.float32))
    assert (made == made[0]).all()


def test_the_mean_rank_is_the_mean_of_scipys_ranks_column_by_column():
    rng = np.random.default_rng(4)
    values = rng.integers(-5, 5, (3, 40, 2)).astype(np.float32)
    fractions = [np.stack([(rankdata(column) - 0.5) / 40 for column in each.T], axis=1) for each in values]
    np.testing.assert_allclose(expit(mean_rank_logit(values)), np.mean(fractions, axis=0), rtol=1e-5)
    weighted = np.average(fractions, axis=0, weights=(3, 1, 1))
    np.testing.assert_allclose(expit(mean_rank_logit(values, (3, 1, 1))), weighted, rtol=1e-5)
    # another scale of one table changes nothing
    assert (mean_rank_logit(values * np.float32([[[1]], [[30]], [[0.1]]])) == mean_rank_logit(values)).all()


def test_the_names_that_the_command_line_shows_are_those_of_the_methods():
    assert tuple(METHODS) == POOLINGS
