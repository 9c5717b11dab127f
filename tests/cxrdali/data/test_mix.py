"""How often each pack's images come in an epoch; counts by hand, chances by NumPy."""

import numpy as np
import pytest

from cxrdali.data import mix
from cxrdali.data.options import DataSettings
from cxrdali.data.sampler import SAMPLERS, SampledRows, rarest_count
from shards.errors import UserError

STARTS = {"a": 0, "b": 1000, "c": 2000}
PACKS = {"a": np.arange(0, 90), "b": np.arange(1000, 1010), "c": np.arange(2005, 2045)}
ROWS = np.concatenate([*PACKS.values()])  # 90, 10 and 40 images
TARGETS = np.zeros((2100, 2), dtype=np.float32)
TARGETS[::9, 0], TARGETS[::4, 1], TARGETS[::5] = 1, np.nan, (0, 1)


def settings(sampler="natural", **changes):
    return DataSettings(size=48, sampler=SAMPLERS[sampler](), **changes)


def visits(rows=ROWS, seed=3, **changes):
    return mix.visits(settings(**changes), STARTS, rows, TARGETS, seed, epochs=4)


def by_pack(rows):
    return np.bincount(rows // 1000, minlength=3).tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("equal", [47, 47, 46]),  # 140 / 3: the first ones are rounded up
        ("sqrt", [70, 23, 47]),  # 9.487 : 3.162 : 6.325 of 18.974
        ("a=1,b=2,c=4", [20, 40, 80]),
        ("c=1,b=1,a=2", [70, 35, 35]),
        ("a=0.5,b=3,c=1e-9", [20, 120, 0]),
    ],
)
def test_each_pack_has_its_part_in_whole_passes_and_a_random_rest(name, expected):
    sampler = visits(mix=name)
    found = [sampler(epoch) for epoch in range(4)]
    for rows in found:
        assert by_pack(rows) == expected
        for own, count in zip(PACKS.values(), expected, strict=True):
            times = np.bincount(rows, minlength=2100)[own]
            assert times.sum() == count and set(times.tolist()) <= {count // len(own), -(-count // len(own))}
    assert all((sampler(epoch) == rows).all() for epoch, rows in enumerate(found))
    if any(count % len(own) for own, count in zip(PACKS.values(), expected, strict=True)):
        assert sorted(found[0]) != sorted(found[1])
        assert sorted(visits(mix=name, seed=4)(0)) != sorted(found[0])


def test_every_image_comes_as_often_in_the_long_run():
    sampler = visits(mix="equal")
    times = sum(np.bincount(sampler(epoch), minlength=2100) for epoch in range(400))
    for own, count in zip(PACKS.values(), [47, 47, 46], strict=True):
        mean, part = 400 * count / len(own), count / len(own) % 1
        assert times[own].mean() == pytest.approx(mean)
        assert np.abs(times[own] - mean).max() < 4.5 * np.sqrt(400 * part * (1 - part))


def test_packs_of_one_size_have_other_random_parts():
    """Or two copies of one hospital would show the same images in every epoch."""
    rows = mix.mixed_rows([np.arange(50), np.arange(50)], [20, 20], 1, 0)
    assert set(rows[:20].tolist()) != set(rows[20:].tolist())


def test_size_is_every_image_once_as_without_a_mix():
    assert visits(mix="size") is None
    assert mix.visits(settings(mix="equal"), {"": 0}, ROWS, TARGETS, 3, 4) is None  # one pack


def test_oversampled_images_count_twice():
    rows = np.sort(np.concatenate([ROWS, PACKS["b"]]))
    found = visits(rows, mix="a=1,b=1,c=1")(0)
    assert by_pack(found) == [50, 50, 50] and set(np.bincount(found)[PACKS["b"]].tolist()) <= {4, 5, 6}


def test_a_pack_without_training_images_has_no_part():
    assert by_pack(visits(ROWS[:100], mix="equal")(0)) == [50, 50, 0]


@pytest.mark.parametrize(("sampler", "power"), [("class-balanced", -1.0), ("sqrt", -0.5)])
def test_a_sampler_s_chances_are_those_in_the_pack_times_its_part(sampler, power):
    found = visits(sampler=sampler, mix="a=1,b=2,c=1")
    assert isinstance(found, SampledRows)
    chances, begin = found.chances(0), 0
    for own, part in zip(PACKS.values(), (0.25, 0.5, 0.25), strict=True):
        weights = rarest_count(TARGETS[own]) ** power
        assert chances[begin : begin + len(own)] == pytest.approx(part * weights / weights.sum())
        begin += len(own)
    rows = np.concatenate([found(epoch) for epoch in range(300)])
    assert np.array(by_pack(rows)) / len(rows) == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    assert len(found(0)) == len(ROWS)


def test_a_progressive_sampler_begins_with_the_mix():
    found = visits(sampler="progressive", mix="equal")
    first = found.chances(0)
    assert first[:90] == pytest.approx(np.full(90, 1 / 270)) and first[90:100] == pytest.approx(np.full(10, 1 / 30))
    assert first.sum() == pytest.approx(1) and found.chances(3).sum() == pytest.approx(1)
    assert found.chances(3) == pytest.approx(found.weighted)


def test_size_samples_over_all_packs_as_over_one():
    one = settings("sqrt").sampler.over(ROWS, TARGETS, 3, 4)
    assert (visits(sampler="sqrt")(1) == one(1)).all()


# ---------------------------------------------------------------- what may be given


@pytest.mark.parametrize(
    ("given", "kept"), [("equal", "equal"), (" b = 1.50,a=2", "a=2,b=1.5"), ("a-1.x=1e3,b=1", "a-1.x=1000,b=1")]
)
def test_a_mix_has_one_spelling(given, kept):
    assert settings(mix=given).mix == kept == mix.canonical(kept)


@pytest.mark.parametrize(
    "given", ["", "eqal", "a", "a=", "=1", "a=0", "a=-1", "a=nan", "a=inf", "a=1,a=2", "a=1,", "a=x"]
)
def test_what_is_no_mix_is_refused(given):
    hint = "did you mean equal? " if given == "eqal" else ""
    with pytest.raises(UserError) as raised:
        settings(mix=given)
    assert str(raised.value) == (
        f"mix {given!r}: {hint}choose one of size, equal, sqrt, or give every pack once with a weight above 0: A=2,B=1"
    )


@pytest.mark.parametrize(
    ("given", "starts", "words"),
    [
        ("a=1,b=1", STARTS, "'c' needs a weight, too"),
        ("a=1,b=1,c=1,cc=2", STARTS, "'cc' is no pack; did you mean c? there are a, b, c"),
        ("a=1", {"": 0}, "there is one pack; leave the mix out"),
    ],
)
def test_weights_of_other_packs_than_there_are_are_refused(given, starts, words):
    with pytest.raises(UserError) as raised:
        mix.visits(settings(mix=given), starts, ROWS, TARGETS, 3, 4)
    assert str(raised.value) == f"mix '{given}': {words}"


def test_it_is_said_in_words():
    words = "20 samples of a's 90 images, 40 samples of b's 10 images, 80 samples of c's 40 images"
    assert mix.words("a=1,b=2,c=4", STARTS, ROWS) == words
