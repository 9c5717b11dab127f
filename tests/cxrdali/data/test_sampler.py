"""Weighted samples: weights worked by hand, shares against their expectation, a function of seed and epoch alone."""

import time

import numpy as np
import pytest

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import windowed_order
from cxrdali.data.sampler import SAMPLERS, rarest_count
from shards.errors import UserError

NAN = np.nan
#                    A  B  C
TARGETS = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, NAN], [1, 1, 1], [0, NAN, 0]], dtype=np.float32)
# A in 5, B in 2, C in 1; two images have none of them
COUNTS = [5, 2, 5, 2, 5, 1, 2]


def made(name, targets=TARGETS, epochs=5, seed=3):
    return SAMPLERS[name]().over(np.arange(len(targets)), targets, seed, epochs)


def many(n=20_000):
    rng = np.random.default_rng(0)
    return (rng.random((n, 4)) < [0.4, 0.1, 0.01, 0.002]).astype(np.float32)


def test_an_image_weighs_as_its_rarest_finding_and_none_is_a_class():
    assert rarest_count(TARGETS).tolist() == COUNTS
    balanced = np.array([1 / count for count in COUNTS])
    assert made("class-balanced").chances(0) == pytest.approx(balanced / balanced.sum())
    root = np.sqrt(balanced)
    assert made("sqrt").chances(4) == pytest.approx(root / root.sum())
    assert made("natural") is None


def test_progressive_goes_from_natural_to_balanced():
    sampler, balanced = made("progressive"), made("class-balanced").chances(0)
    assert sampler.chances(0) == pytest.approx(np.full(7, 1 / 7))
    assert sampler.chances(4) == pytest.approx(balanced)
    assert sampler.chances(1) == pytest.approx(0.75 / 7 + 0.25 * balanced)
    assert made("progressive", epochs=1).chances(0) == pytest.approx(np.full(7, 1 / 7))


@pytest.mark.parametrize("name", ["class-balanced", "sqrt", "progressive"])
def test_draws_have_the_chances_they_should(name):
    targets = many()
    sampler = made(name, targets)
    drawn = np.concatenate([sampler(4) for sampler in (made(name, targets, seed=seed) for seed in range(20))])
    chances, rarest = sampler.chances(4), rarest_count(targets)
    for count in np.unique(rarest):
        group = rarest == count
        expected = chances[group].sum()
        spread = np.sqrt(expected * (1 - expected) / len(drawn))
        assert abs(group[drawn].mean() - expected) < 5 * spread


def test_class_balanced_draws_give_every_class_the_same_share():
    """Counted by rarest finding. Only images of one finding each, so that the classes do not overlap."""
    targets = np.repeat(np.eye(3, dtype=np.float32), [9000, 900, 90], axis=0)
    targets = np.concatenate([targets, np.zeros((10, 3), dtype=np.float32)])
    drawn = made("class-balanced", targets)(0)
    shares = np.array([*targets[drawn].mean(axis=0), (targets[drawn].sum(axis=1) == 0).mean()])
    assert shares == pytest.approx([0.25] * 4, abs=0.02)


def test_an_epoch_is_a_function_of_seed_and_epoch():
    targets = many()
    one, same, other = (made("class-balanced", targets, seed=seed) for seed in (3, 3, 4))
    assert (one(2) == same(2)).all() and len(one(2)) == len(targets)
    assert not (one(2) == one(3)).all() and not (one(2) == other(2)).all()


def test_an_epoch_of_212_000_rows_is_drawn_in_under_a_second():
    targets = many(212_000)
    started = time.process_time()  # of this process: others may be busy
    sampler = made("class-balanced", targets)
    assert len(sampler(0)) == 212_000
    assert time.process_time() - started < 1


def test_unknown_samplers_are_named():
    with pytest.raises(
        UserError,
        match="sampler 'balanced': did you mean class-balanced. choose one of class-balanced, natural, progressive",
    ):
        made("balanced")


# ---------------------------------------------------------------- through the loader


def loader(dataset, order="global", batch=4):
    rows = np.flatnonzero(dataset.packed)
    targets = np.zeros((len(dataset.packed), 2), dtype=np.float32)
    targets[rows[::10], 0], targets[rows[::2], 1] = 1, 1
    sampler = SAMPLERS["class-balanced"]().over(rows, targets, 5, 3)
    options = LoaderOptions(48, batch, threads=1, order=order, window=2)
    return Loader(dataset, rows, options, seed=5, shuffle=True, augment=AugmentOptions(), sampler=sampler), sampler


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_the_loader_delivers_the_draws_in_its_order(dataset, order):
    ours, sampler = loader(dataset, order)
    for epoch in range(2):
        delivered = np.concatenate([batch.rows.numpy() for batch in ours])
        assert sorted(delivered.tolist()) == sorted(sampler(epoch).tolist())
        assert len(set(delivered.tolist())) < len(delivered)  # with repeats
        if order == "windowed":
            shard = dataset.stored(48).shard
            expected, _ = windowed_order(sampler(epoch), shard, 5, epoch, 2)
            assert (delivered == expected).all()


@pytest.mark.parametrize("batch", [4, 7])
def test_draws_continue_anywhere_with_any_batch(dataset, batch):
    whole = [(row, image.sum()) for images, rows in loader(dataset)[0] for image, row in zip(images, rows, strict=True)]
    broken, _ = loader(dataset)
    seen = []
    for images, rows in broken:
        seen += [(row, image.sum()) for image, row in zip(images, rows, strict=True)]
        if len(seen) == 20:
            break
    rest, _ = loader(dataset, batch=batch)
    rest.load_state_dict(broken.state_dict())
    for images, rows in rest:
        seen += [(row, image.sum()) for image, row in zip(images, rows, strict=True)]
    assert [(int(a), int(b)) for a, b in seen] == [(int(a), int(b)) for a, b in whole]
