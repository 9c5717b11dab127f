"""Repeat factors: worked by hand, their shares over many epochs, and an epoch of another length through the loader."""

import time
from math import sqrt

import numpy as np
import pytest

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.mix import visits
from cxrdali.data.options import DataSettings, LoaderOptions
from cxrdali.data.sampler import SAMPLERS, epoch_samples
from cxrdali.data.samplers.repeat_factor import RepeatedRows
from shards.errors import UserError

NAN = np.nan
#                    A  B  C
TARGETS = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, NAN], [1, 1, 1], [0, NAN, 0]], dtype=np.float32)


def made(targets=TARGETS, seed=3, **given):
    return SAMPLERS["repeat-factor"](**given).over(np.arange(len(targets)), targets, seed, 5)


def rare(n=20_000):
    rng = np.random.default_rng(0)
    return (rng.random((n, 4)) < [0.4, 0.1, 0.005, 0.0004]).astype(np.float32)


def test_an_image_has_the_largest_factor_of_its_findings_and_none_is_1():
    """A is in 5 of 7 images, B in 2 and C in 1; of 8 positive labels."""
    factors = SAMPLERS["repeat-factor"](repeat_threshold=1.0).weights(TARGETS)
    a, b, c = sqrt(7 / 5), sqrt(7 / 2), sqrt(7)
    assert factors.tolist() == pytest.approx([a, b, a, 1, a, c, 1])
    of_labels = SAMPLERS["repeat-factor"](repeat_threshold=0.5, repeat_share="labels").weights(TARGETS)
    assert of_labels.tolist() == pytest.approx([1, sqrt(2), 1, 1, 1, 2, 1])
    capped = SAMPLERS["repeat-factor"](repeat_threshold=1.0, repeat_cap=2.0).weights(TARGETS)
    assert capped.max() == 2.0 and capped[:5].tolist() == pytest.approx(factors[:5].tolist())
    few = np.zeros((40_000, 1), dtype=np.float32)
    few[0] = 1
    assert [SAMPLERS["repeat-factor"](repeat_cap=cap).weights(few)[0] for cap in (10.0, 0.0)] == [10, 20]
    assert SAMPLERS["repeat-factor"]().weights(np.zeros((3, 2))).tolist() == [1, 1, 1]


def test_fixed_rounding_repeats_as_the_winner_does():
    targets = rare()
    sampler = made(targets, repeat_rounding="fixed", repeat_share="labels")
    frequency = targets.sum(axis=0) / targets.sum()
    factor = np.maximum(1, np.sqrt(0.01 / frequency))
    wanted = [round(min(10, max([1, *factor[image == 1]]))) for image in targets]
    for epoch in (0, 3):
        assert np.bincount(sampler(epoch), minlength=len(targets)).tolist() == wanted
    assert len(sampler) == sum(wanted) > len(targets)


def test_stochastic_rounding_gives_each_image_its_factor_in_the_mean_and_every_epoch_as_many_samples():
    targets = rare()
    sampler, factors = made(targets), SAMPLERS["repeat-factor"]().weights(targets)
    epochs = [np.bincount(sampler(epoch), minlength=len(targets)) for epoch in range(400)]
    for times in epochs:
        assert times.sum() == len(sampler) == int(factors.sum())
        assert (np.floor(factors) <= times).all() and (times <= np.ceil(factors)).all()
    mean = np.mean(epochs, axis=0)
    broken = factors % 1 > 0
    assert (mean[~broken] == factors[~broken]).all() and broken.sum() > 50
    spread = np.sqrt((factors % 1) * (1 - factors % 1) / 400)
    assert (abs(mean - factors)[broken] < 5 * spread[broken]).all()
    # which ones come again changes freely from epoch to epoch: no pattern of neighbours
    more = np.array([times - np.floor(factors) for times in epochs])[:, np.flatnonzero(broken)[:2]]
    assert abs(np.corrcoef(more.T)[0, 1]) < 0.25


def test_of_few_images_each_has_its_own_chance_too():
    """One more sample for rests of 0.9 and 0.2. In this order a point in 0 to 1 hits the first one below 0.9; in the
    other, the second one below 0.2: chances of 0.85 and 0.15."""
    two = RepeatedRows(SAMPLERS["repeat-factor"](), np.array([4, 7]), np.ones(2, np.int64), np.array([0.9, 0.2]), 3, 1)
    times = np.mean([[np.count_nonzero(two(epoch) == row) for row in (4, 7)] for epoch in range(2_000)], axis=0)
    assert len(two) == 3 and times == pytest.approx([1.85, 1.15], abs=0.03)


def test_an_epoch_is_a_function_of_seed_and_epoch():
    targets = rare()
    one, same, other = (made(targets, seed=seed) for seed in (3, 3, 4))
    assert (one(2) == same(2)).all()
    assert not (one(2) == one(3)).all() and not (one(2) == other(2)).all()


def test_four_million_rows_take_seconds():
    targets = np.zeros((4_000_000, 3), dtype=np.float32)
    targets[::3, 0], targets[::1_000, 1], targets[::100_000, 2] = 1, 1, 1
    started = time.process_time()  # of this process: others may be busy
    sampler = made(targets)
    assert len(sampler(0)) == len(sampler) > 4_000_000
    assert time.process_time() - started < 6


def test_with_a_mix_of_packs_a_factor_is_a_chance_in_its_pack():
    rows, starts = np.arange(14), {"a": 0, "b": 7}
    both = np.concatenate([TARGETS, TARGETS[::-1]])
    how = DataSettings(size=64, sampler=SAMPLERS["repeat-factor"](repeat_threshold=1.0), mix="equal")
    weights = how.sampler.weights(TARGETS)
    chances = visits(how, starts, rows, both, 3, 4).chances(0)
    assert chances[:7] == pytest.approx(0.5 * weights / weights.sum()) == chances[7:][::-1]
    assert len(visits(how, starts, rows, both, 3, 4)(0)) == 14
    whole = visits(DataSettings(size=64, sampler=how.sampler), starts, rows, both, 3, 4)
    assert epoch_samples(whole, rows) == len(whole) == int(2 * weights.sum())


def test_what_is_no_setting_of_it_is_named():
    for given, words in (
        ({"repeat_threshold": 0.0}, "repeat-threshold 0.0: above 0, at most 1"),
        ({"repeat_cap": 0.5}, "repeat-cap 0.5: 1 or more, or 0 for none"),
        ({"repeat_rounding": "up"}, "repeat-rounding 'up': choose one of stochastic, fixed"),
    ):
        with pytest.raises(UserError, match=words):
            made(**given)


# ---------------------------------------------------------------- through the loader


def loader(dataset, order="global", batch=4, **part):
    rows = np.flatnonzero(dataset.packed)
    targets = np.zeros((len(dataset.packed), 2), dtype=np.float32)
    targets[rows[::10], 0], targets[rows[::2], 1] = 1, 1
    sampler = SAMPLERS["repeat-factor"](repeat_threshold=0.7).over(rows, targets, 5, 3)
    options = LoaderOptions(48, batch, threads=1, order=order, window=2)
    return Loader(dataset, rows, options, seed=5, shuffle=True, augment=AugmentOptions(), sampler=sampler, **part)


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_an_epoch_is_as_long_as_its_samples_and_so_for_ranks(dataset, order):
    whole, sampler = loader(dataset, order, drop_last=True), loader(dataset).sampler
    assert len(sampler) > len(whole.rows) and len(whole) == len(sampler) // 4
    for epoch in range(2):
        batches = [batch.rows.numpy() for batch in whole]
        assert len(batches) == len(whole)
        rows = whole.epoch_rows(epoch)
        assert sorted(rows.tolist()) == sorted(sampler(epoch).tolist())
        assert np.concatenate(batches).tolist() == rows[: 4 * len(whole)].tolist()
        shares = []
        for rank in range(2):
            part = loader(dataset, order, drop_last=True, rank=rank, world=2)
            part.set_epoch(epoch)
            shares.append([batch.rows.numpy() for batch in part])
        for number, (left, right) in enumerate(zip(*shares, strict=True)):
            assert (np.concatenate([left, right]) == batches[number]).all()


def test_it_continues_behind_the_number_of_images(dataset):
    whole = [rows for _, rows in loader(dataset)]
    broken = loader(dataset)
    position = (len(broken.rows) // 4 + 1) * 4
    assert position < broken.samples
    rest = loader(dataset)
    rest.load_state_dict({"epoch": 0, "position": position})
    assert [rows.tolist() for _, rows in rest] == [rows.tolist() for rows in whole[position // 4 :]]


def test_too_few_samples_for_a_batch_are_refused(dataset):
    samples = loader(dataset).samples
    assert len(loader(dataset, batch=samples, drop_last=True)) == 1  # more than there are images
    with pytest.raises(UserError, match=f"{samples} training images make no batch of {samples + 1}"):
        loader(dataset, batch=samples + 1, drop_last=True)
