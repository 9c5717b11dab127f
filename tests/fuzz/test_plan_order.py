"""Plan, keys, and the order of an epoch: nothing lost, nothing twice, and the same for the same input."""

from collections import Counter
from pathlib import PurePosixPath
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cxrdali.data.order import batch_bounds, global_order, windowed_order
from shards.dataset.key import sample_key
from shards.packing.plan import plan, shard_of_study

pytestmark = pytest.mark.slow

IDS = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=6),
    st.text(st.sampled_from("./%2Ea\n\0 \\"), min_size=1, max_size=5),
    st.sampled_from([".", "..", "a/b", "%2E", "10000032", "1.2.840", "\u00e9", "e\u0301"]),
)
TRIPLES = st.tuples(IDS, IDS, IDS)
SMALL = st.sampled_from(["1", "2", "10", ".", "a/b"])
IMAGES = st.lists(st.tuples(SMALL, SMALL, IDS), max_size=30, unique_by=lambda triple: triple[2]).map(
    lambda rows: pd.DataFrame(rows, columns=["subject_id", "study_id", "image_id"], dtype=str)
)
SEED = st.integers(0, 2**64 - 1)


def unkey(key: str) -> tuple[str, ...]:
    return tuple(unquote(part, errors="strict") for part in key.split("/"))


@given(TRIPLES)
@example(("..", ".", "/"))
@example(("\0", "\n", "%"))
@example(("__x__", "__", "_"))
def test_a_key_is_a_safe_name_that_gives_its_ids_back(triple):
    key = sample_key(*triple)
    assert unkey(key) == triple
    assert key.isascii() and key.isprintable() and not set(key) & set(' ."\\')
    path = PurePosixPath(key)
    assert not path.is_absolute() and len(path.parts) == 3 and str(path) == key


@given(st.lists(TRIPLES, unique=True, max_size=20))
def test_different_ids_have_different_keys(triples):
    assert len({sample_key(*triple) for triple in triples}) == len(triples)


@given(IMAGES, st.integers(1, 9), SEED, st.randoms(use_true_random=False))
def test_every_image_has_one_row_and_its_study_one_shard(images, shard_images, seed, rng):
    rows = plan(images, shard_images, seed).rows()
    names = ["subject_id", "study_id", "image_id"]
    assert sorted(rows[names].itertuples(index=False, name=None)) == sorted(images.itertuples(index=False, name=None))
    assert rows["row"].tolist() == list(range(len(images)))
    studies = list(zip(rows["subject_id"], rows["study_id"], strict=True))
    runs = [study for place, study in enumerate(studies) if not place or studies[place - 1] != study]
    assert len(runs) == len(set(runs))  # contiguous
    assert rows.groupby(["subject_id", "study_id"])["shard"].nunique().le(1).all()

    shuffled = list(range(len(images)))
    rng.shuffle(shuffled)
    again = plan(images.iloc[shuffled].reset_index(drop=True), shard_images, seed).rows()
    assert again.equals(rows)


@given(IMAGES, st.integers(1, 9), SEED, st.integers(0, 40))
def test_a_limit_keeps_whole_studies_from_the_front(images, shard_images, seed, limit):
    rows, kept = plan(images, shard_images, seed).rows(), plan(images, shard_images, seed, limit).rows()
    assert kept.equals(rows.iloc[: len(kept)])
    counts = rows.groupby(["subject_id", "study_id"], sort=False).size().tolist()
    first = counts[0] if counts else 0
    assert len(kept) in np.cumsum([0, *counts]) and len(kept) <= max(limit, first)
    following = counts[kept.groupby(["subject_id", "study_id"]).ngroups :] if counts else []
    assert not following or len(kept) + following[0] > limit


@pytest.mark.parametrize("column", ["subject_id", "study_id", "image_id"])
def test_a_blank_id_has_no_plan(column):
    images = pd.DataFrame({"subject_id": ["1"], "study_id": ["2"], "image_id": ["3"]}).assign(**{column: ""})
    with pytest.raises(AssertionError, match="blank id"):
        plan(images, 4, 0)


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 10))
def test_shards_are_full_but_never_over(counts, shard_images):
    shards = shard_of_study(np.array(counts, dtype=np.int64), shard_images).tolist()
    assert sorted(set(shards)) == list(range(len(set(shards)))) and shards == sorted(shards)
    for shard in set(shards):
        members = [count for count, at in zip(counts, shards, strict=True) if at == shard]
        following = [count for count, at in zip(counts, shards, strict=True) if at == shard + 1]
        assert sum(members) <= shard_images or len(members) == 1
        assert not following or sum(members) + following[0] > shard_images  # no shard is closed early


ROWS = st.lists(st.integers(0, 60), max_size=60).map(lambda rows: np.array(rows, dtype=np.int64))


@given(ROWS, SEED, st.integers(0, 2**32 - 1))
def test_the_global_order_loses_and_doubles_nothing(rows, seed, epoch):
    order = global_order(rows, seed, epoch)
    assert Counter(order.tolist()) == Counter(rows.tolist())
    assert order.tolist() == global_order(rows, seed, epoch).tolist()


@given(ROWS, st.lists(st.integers(0, 12), min_size=61, max_size=61), SEED, st.integers(0, 99), st.integers(1, 15))
def test_the_windowed_order_loses_nothing_and_holds_few_shards_open(rows, shards, seed, epoch, window):
    shards = np.array(shards)
    order, windows = windowed_order(rows, shards, seed, epoch, window)
    assert Counter(order.tolist()) == Counter(rows.tolist())
    starts = [first for first, _ in windows]
    assert starts == sorted(set(starts)) and starts[:1] == [0] * bool(len(rows))
    announced = [shard for _, members in windows for shard in members.tolist()]
    assert sorted(announced) == np.unique(shards[rows]).tolist()
    for (first, members), stop in zip(windows, [*starts[1:], len(order)], strict=bool(windows)):
        assert set(shards[order[first:stop]].tolist()) == set(members.tolist()) and len(members) <= window
    assert all(len(members) == window for _, members in windows[:-1])


@given(st.integers(0, 500), st.integers(1, 70), st.integers(0, 500), st.booleans())
def test_batches_cover_the_rest_once(count, batch, start, drop_last):
    bounds = batch_bounds(count, batch, start, drop_last)
    positions = [place for first, stop in bounds for place in range(first, stop)]
    rest = max(0, count - start)
    assert positions == list(range(start, start + (rest - rest % batch if drop_last else rest)))
    assert all(stop - first == batch for first, stop in bounds[:-1]) and all(stop > first for first, stop in bounds)
