"""Mixup and CutMix beside NumPy."""

import numpy as np
import pytest
import torch

from cxrdali.data.pairs import Pairs


def batch_of(count=64, size=12):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 1, size, size), dtype=np.uint8)
    wanted = random.choice([0.0, 1.0, np.nan], (count, 5), p=[0.5, 0.3, 0.2]).astype(np.float32)
    return images, wanted


def mixed(pairs, images, wanted, start=0, epoch=1):
    found = pairs(torch.from_numpy(images), epoch, start, torch.from_numpy(wanted))
    return [each.numpy() for each in found]


def swapped(values):
    return values.reshape(-1, 2, *values.shape[1:])[:, ::-1].reshape(values.shape)


def test_mixup_blends_neighbours_and_their_targets_alike():
    images, wanted = batch_of()
    pairs = Pairs(0.4, 0, seed=3)
    found, targets = mixed(pairs, images, wanted)
    stays, square = pairs.decide(1, 0, 64, 12)
    part = np.repeat(stays, 2).astype(np.float64)
    pixels = part[:, None, None, None] * images + (1 - part[:, None, None, None]) * swapped(images)
    assert found.dtype == np.uint8 and np.abs(found - pixels).max() <= 0.501 and not square.any()
    wished = part[:, None] * wanted + (1 - part[:, None]) * swapped(wanted)
    assert np.allclose(targets, wished, atol=1e-6, equal_nan=True) and targets.dtype == np.float32
    unknown = np.isnan(wanted) | np.isnan(swapped(wanted))  # of one, of both
    assert (np.isnan(targets) == unknown).all() and 0 < unknown.mean() < 1
    known = targets[~unknown]
    assert known.min() >= 0 and known.max() <= 1 and ((known > 0.01) & (known < 0.99)).any()


def test_a_weight_of_each_image_is_blended_too():
    images, _ = batch_of(8)
    weights, pairs = torch.arange(8.0), Pairs(0.4, 0)
    _, found = pairs(torch.from_numpy(images), 0, 0, weights)
    part = np.repeat(pairs.decide(0, 0, 8, 12)[0], 2)
    assert np.allclose(found, part * weights.numpy() + (1 - part) * swapped(weights.numpy()), atol=1e-6)


def test_cutmix_exchanges_a_square_and_targets_follow_its_area():
    images, wanted = batch_of(200)
    pairs = Pairs(0, 1.0)
    found, targets = mixed(pairs, images, wanted)
    stays, square = pairs.decide(1, 0, 200, 12)
    expected, other = images.copy(), swapped(images)
    for place in range(200):
        top, left, bottom, right = square[place // 2]
        expected[place, :, top:bottom, left:right] = other[place, :, top:bottom, left:right]
        assert stays[place // 2] == pytest.approx(1 - (bottom - top) * (right - left) / 144)
    assert (found == expected).all() and square.min() >= 0 and square.max() <= 12
    part = np.repeat(stays, 2)[:, None]
    assert np.allclose(targets, part * wanted + (1 - part) * swapped(wanted), atol=1e-6, equal_nan=True)


def test_shares_are_beta_and_with_both_half_of_the_pairs_are_cut():
    stays, _ = Pairs(0.4, 0).decide(0, 0, 40_000, 100)
    random = np.random.default_rng(0).beta(0.4, 0.4, 20_000)
    at = np.linspace(0.05, 0.95, 19)
    assert np.abs(np.quantile(stays, at) - np.quantile(random, at)).max() < 0.02
    _, square = Pairs(0.4, 1).decide(0, 0, 40_000, 100)
    assert (square[:, 2] > 0).mean() == pytest.approx(0.5, abs=0.02)
    high, wide = (square[:, 2:] - square[:, :2]).T
    centre = (square[:, 2:] + square[:, :2])[(high == wide) & (high > 4) & (high < 25)]  # nearly all lie within
    assert (centre / 200).mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.05)


def test_what_a_pair_becomes_depends_on_seed_epoch_and_position_alone():
    images, wanted = batch_of(64)
    pairs = Pairs(0.4, 1, seed=2)
    whole = mixed(pairs, images, wanted, start=128)
    for start, stop in ((0, 32), (32, 64), (62, 64)):  # ranks, another batch, a continued run
        part = mixed(pairs, images[start:stop], wanted[start:stop], start=128 + start)
        for one, all_of_them in zip(part, whole, strict=True):
            assert np.array_equal(one, all_of_them[start:stop], equal_nan=True)
    for other in (mixed(pairs, images, wanted, 0), mixed(pairs, images, wanted, 128, epoch=2)):
        assert (other[0] != whole[0]).any()
    assert (mixed(Pairs(0.4, 1), images, wanted, 128)[0] != whole[0]).any()
