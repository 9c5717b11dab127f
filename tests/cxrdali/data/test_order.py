import time

import numpy as np
import pytest

from cxrdali.data.order import batch_bounds, global_order, windowed_order

ROWS = np.arange(100, 400)
SHARD_OF_ROW = np.repeat(np.arange(20), 20)  # 400 rows in 20 shards


def test_every_row_comes_once_in_an_order_of_its_own_per_seed_and_epoch():
    orders = {(seed, epoch): global_order(ROWS, seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert all(sorted(order) == ROWS.tolist() for order in orders.values())
    assert len({order.tobytes() for order in orders.values()}) == len(orders)
    assert (orders[0, 1] == global_order(ROWS, 0, 1)).all()


def test_repeated_rows_stay_repeated():
    rows = np.concatenate([ROWS, ROWS[:10]])
    assert sorted(global_order(rows, 0, 0)) == sorted(rows)


def test_the_order_is_pinned():
    """A change here would silently reorder every epoch of every run that is continued."""
    assert global_order(np.arange(8), seed=3, epoch=5).tolist() == [1, 6, 0, 7, 3, 2, 5, 4]


def test_positions_are_uniform_over_epochs():
    """Each row's mean position over many epochs is the middle: 3 standard errors, 20 rows."""
    rows, epochs = np.arange(20), 2000
    positions = np.stack([np.argsort(global_order(rows, 1, epoch)) for epoch in range(epochs)])
    error = np.sqrt((20**2 - 1) / 12 / epochs)
    assert np.abs(positions.mean(axis=0) - 9.5).max() < 4 * error


@pytest.mark.parametrize("window", [1, 3, 20, 50])
def test_windowed_order_keeps_few_shards_open(window):
    order, windows = windowed_order(ROWS, SHARD_OF_ROW, seed=0, epoch=1, window=window)
    assert sorted(order) == ROWS.tolist()
    edges = [first for first, _ in windows] + [len(order)]
    for (first, shards), stop in zip(windows, edges[1:], strict=True):
        assert len(shards) <= window
        assert set(SHARD_OF_ROW[order[first:stop]]) == set(shards.tolist())


def test_windowed_order_differs_between_epochs_and_mixes_within_a_window():
    one, _ = windowed_order(ROWS, SHARD_OF_ROW, 0, 1, window=5)
    two, _ = windowed_order(ROWS, SHARD_OF_ROW, 0, 2, window=5)
    assert (one != two).any()
    changes = (np.diff(SHARD_OF_ROW[one]) != 0).mean()
    assert changes > 0.6  # five shards mixed: four of five neighbours are of another shard


@pytest.mark.parametrize("shards", [7, 2**16, 2**16 + 1])
def test_windows_are_sorted_as_wide_integers_would_be(shards):
    """Numbers of windows are narrowed for speed; with a window of one shard they reach those of the shards."""
    rows = np.arange(shards + 1000)
    shard_of_row = np.minimum(rows, shards - 1)
    order, windows = windowed_order(rows, shard_of_row, seed=2, epoch=3, window=1)
    assert len(windows) == shards
    place = np.empty(shards, dtype=np.int64)  # of a shard among the windows
    place[np.concatenate([each for _, each in windows])] = np.arange(shards)
    mixed = global_order(rows, 2, 3)
    assert (order == mixed[np.argsort(place[shard_of_row[mixed]], kind="stable")]).all()


def test_batch_bounds_by_hand():
    assert batch_bounds(10, 4) == [(0, 4), (4, 8)]
    assert batch_bounds(10, 4, drop_last=False) == [(0, 4), (4, 8), (8, 10)]
    assert batch_bounds(10, 4, start=4) == [(4, 8)]
    assert batch_bounds(10, 3, start=4) == [(4, 7), (7, 10)]  # another batch size goes on where the first stopped
    assert batch_bounds(10, 4, start=10, drop_last=False) == []


def test_an_epoch_of_212000_rows_is_planned_in_well_under_a_second():
    rows = np.arange(212_000)
    started = time.perf_counter()
    global_order(rows, 0, 1)
    assert time.perf_counter() - started < 0.5


def test_shards_of_packs_are_spread_over_the_windows_and_one_pack_is_as_ever():
    rows, shard = np.arange(1200), np.arange(1200) // 100  # packs of 2 and 10 shards
    order, windows = windowed_order(rows, shard, 1, 0, 6, lambda shards: (shards >= 2).astype(int))
    assert [np.count_nonzero(shards < 2) for _, shards in windows] == [1, 1]
    assert sorted(order.tolist()) == list(range(1200))
    one = windowed_order(rows, shard, 1, 0, 6, lambda shards: shards * 0)
    assert (one[0] == windowed_order(rows, shard, 1, 0, 6)[0]).all()
