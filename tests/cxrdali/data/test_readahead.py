"""The windows of an epoch are read before their images are asked for, and in no other case."""

import threading
import time

import numpy as np
import pytest

from cxrdali.data import readahead
from cxrdali.data.order import shard_windows, windowed_order
from cxrdali.data.readahead import GAP, ReadAhead, spans
from shards.dataset.mapped import MappedSize
from shards.errors import UserError


@pytest.fixture
def mapped(dataset):
    return MappedSize(dataset.stored(64))


@pytest.fixture
def reads(monkeypatch):
    """(path, begin, end) of every span that was read, in order."""
    made = []
    original = readahead.read_spans

    def noted(path, wanted, piece, closed):
        made.extend((path, begin, end) for begin, end in wanted)
        original(path, wanted, piece, closed)

    monkeypatch.setattr(readahead, "read_spans", noted)
    return made


def windowed(dataset, mapped, window=2):
    return windowed_order(dataset.packed.nonzero()[0], mapped.stored.shard, 0, 0, window)


def ended(name="cxrdali read-ahead") -> bool:
    """Whether the thread ends, within a second."""
    for _ in range(100):
        if not any(thread.name == name for thread in threading.enumerate()):
            return True
        time.sleep(0.01)
    return False


def covered(reads, mapped, row) -> bool:
    begin = int(mapped.stored.offset[row])
    path, end = mapped.stored.paths[int(mapped.stored.shard[row])], begin + int(mapped.stored.length[row])
    return any(place == path and first <= begin and end <= last for place, first, last in reads)


def test_a_window_is_there_when_its_first_image_is_asked_for_and_the_next_is_on_its_way(dataset, mapped, reads):
    order, windows = windowed(dataset, mapped)
    assert len(windows) == 4
    ahead = ReadAhead(mapped, order, windows)
    ahead.wait(0, 8)
    in_first = set(order[: windows[1][0]].tolist())
    assert all(covered(reads, mapped, row) for row in in_first)
    in_third = order[windows[2][0] : windows[3][0]].tolist()
    assert not any(covered(reads, mapped, row) for row in in_third)  # one window ahead, not two
    ahead.wait(windows[2][0] - 4, windows[2][0] + 4)  # a batch of two windows
    assert all(covered(reads, mapped, row) for row in order[: windows[3][0]].tolist())
    ahead.wait(len(order) - 1, len(order))
    assert all(covered(reads, mapped, row) for row in order.tolist())
    assert ended()


def test_an_epoch_that_goes_on_in_the_middle_reads_what_is_left(dataset, mapped, reads):
    order, windows = windowed(dataset, mapped)
    start = windows[2][0] + 5
    ahead = ReadAhead(mapped, order, windows, start)
    ahead.wait(start, start + 8)
    ahead.wait(len(order) - 8, len(order))
    assert all(covered(reads, mapped, row) for row in order[start:].tolist())
    shards = {path for path, _, _ in reads}
    assert shards == {mapped.stored.paths[int(shard)] for _, some in windows[2:] for shard in some}
    assert ended()


def test_without_windows_nothing_is_read(dataset, mapped, reads):
    ahead = ReadAhead(mapped, dataset.packed.nonzero()[0], [])
    ahead.wait(0, 100)
    assert not reads and ended()


def test_a_closed_one_ends_its_thread(dataset, mapped):
    order, windows = windowed(dataset, mapped, window=1)
    ahead = ReadAhead(mapped, order, windows)
    ahead.wait(0, 4)
    ahead.close()
    assert ended()


def test_a_shard_that_was_cut_while_in_use_is_named(dataset, mapped, monkeypatch):
    order, windows = windowed(dataset, mapped)
    monkeypatch.setattr(readahead.os, "preadv", lambda *_: 0)
    ahead = ReadAhead(mapped, order, windows)
    first = mapped.stored.paths[int(windows[0][1][0])]
    with pytest.raises(UserError, match=f"{first}: ends at byte .* cut while in use; copy it again"):
        ahead.wait(0, 8)


def test_a_disk_that_fails_is_an_error_not_a_wait(dataset, mapped, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    order, windows = windowed(dataset, mapped)
    monkeypatch.setattr(readahead.os, "preadv", broken)
    with pytest.raises(UserError, match=r"\.tar: cannot be read \(Input/output error\); check the disk"):
        ReadAhead(mapped, order, windows).wait(0, 8)


@pytest.mark.parametrize("gives_back, ranks", [(True, 1), (False, 1), (True, 2)])
def test_windows_that_were_used_are_given_back_where_memory_is_short(dataset, mapped, monkeypatch, gives_back, ranks):
    """Batches of 2; with two ranks a batch of 4, of which each has 2."""
    order, windows = windowed(dataset, mapped, window=1)
    step = 2 * ranks
    forgotten = []
    monkeypatch.setattr(mapped, "forget", forgotten.append)
    monkeypatch.setattr(readahead, "memory_available", lambda: (0 if gives_back else 10**12, None))
    ahead = ReadAhead(mapped, order, windows, ranks=ranks)
    for start in range(0, len(order), step):
        ahead.wait(start, start + 2)
        behind = [int(shard) for first, some in windows for shard in some if first + 16 <= start - 8 * step]
        assert set(behind[: len(forgotten)]) <= set(forgotten)
        used = {int(shard) for shard in mapped.stored.shard[order[max(0, start - 8 * step) :]]}
        assert not used & set(forgotten)  # nothing that comes, or that may still be decoded
    assert bool(forgotten) == gives_back and len(set(forgotten)) == len(forgotten)


def test_the_memory_that_is_free_decides_whether_windows_are_given_back(dataset, mapped, monkeypatch):
    order, windows = windowed(dataset, mapped)
    total = sum(path.stat().st_size for path in mapped.stored.paths.values())
    for free, expected in ((total + 1, False), (total, True)):
        monkeypatch.setattr(readahead, "memory_available", lambda free=free: (free, None))
        ahead = ReadAhead(mapped, order, windows)
        assert ahead.gives_back is expected
        ahead.close()


def test_spans_join_what_is_near_and_sort_what_is_not():
    offset = np.array([GAP + 500, 0, 100, 100])
    length = np.array([50, 100, 20, 20])
    assert spans(offset, length) == [(0, 120), (GAP + 500, GAP + 550)]
    assert spans(offset + np.array([-400, 0, 0, 0]), length) == [(0, GAP + 150)]
    assert spans(offset[:0], length[:0]) == []


def test_rows_in_shard_order_are_windows_of_one_shard():
    shard_of_row = np.array([3, 3, 1, 1, 1, 2])
    found = shard_windows(np.arange(6), shard_of_row)
    assert [(first, shards.tolist()) for first, shards in found] == [(0, [3]), (2, [1]), (5, [2])]
    assert shard_windows(np.array([0, 2, 1]), shard_of_row) == []  # comes back to shard 3
