"""Epochs over a dataset in a bucket: the batches of a local one, whatever has to make room for what."""

import contextlib
import gc
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.download import CopyAhead, depth, most_held, whole
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import shard_windows, windowed_order
from shards.dataset.cache import Cache
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import one_by_one
from shards.storage.remote import place
from tests.s3 import Link, lead

pytestmark = pytest.mark.usefixtures("time_limit")
TRAINING = {"shuffle": True, "drop_last": True, "augment": AugmentOptions()}


def opened(address: str, folder: Path, limit: int | None = None) -> PackedDataset:
    return PackedDataset.open(place(address), Cache(folder / "cache", limit))


def make(dataset: PackedDataset, size: int = 48, batch: int = 4, order: str = "windowed", **more) -> Loader:
    options = LoaderOptions(size, batch, threads=2, order=order, window=2)
    return Loader(dataset, np.flatnonzero(dataset.packed), options, **more)


def batches(loader: Loader, epochs: int = 2) -> list:
    return [(images.numpy().copy(), rows.numpy()) for _ in range(epochs) for images, rows in loader]


def same(ours: list, theirs: list) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)
    )


def taken(cache: Cache) -> int:
    """Bytes of all shards and parts of shards in a cache, at a moment when nothing is removed."""
    total = 0
    with one_by_one(cache.folder / ".lock"):  # else a part may be seen beside the shard that was removed for it
        for path in (*cache.folder.glob("*/[0-9]*/*.tar"), *cache.folder.glob("*/[0-9]*/.*.part")):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def no_threads() -> bool:
    """Whether the threads that copy end, within a few seconds."""
    deadline = time.monotonic() + 5
    while any(thread.name == "cxrdali copy" for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("size", [48, 56])
@pytest.mark.parametrize("order", ["global", "windowed"])
@pytest.mark.parametrize("how", [TRAINING, {}], ids=["training", "in order"])
def test_the_batches_are_those_of_the_local_dataset(address, dataset, tmp_path, size, order, how):
    remote = opened(address, tmp_path)
    assert same(batches(make(remote, size, order=order, **how)), batches(make(dataset, size, order=order, **how)))
    assert no_threads()


def test_an_epoch_that_goes_on_in_the_middle_copies_what_is_left(address, dataset, tmp_path):
    remote = opened(address, tmp_path)
    loader = make(remote, **TRAINING)
    order, windows = loader._order(0)
    position = windows[2][0] + 3
    loader.load_state_dict({"epoch": 0, "position": position})
    rows = np.concatenate([rows for _, rows in batches(loader, 1)])
    assert np.array_equal(rows, order[position : position + len(rows)])
    here = {int(path.stem) for path in remote.folder.glob("48/*.tar")}
    assert here == {int(shard) for _, shards in windows[2:] for shard in shards}


@pytest.mark.parametrize(("shards", "how"), [(5, TRAINING), (5, {}), (7, TRAINING)])
def test_a_bounded_cache_is_never_above_its_size(address, dataset, tmp_path, shards, how):
    limit = shards * 51_200 + 1000  # the shards at 48 px are 51,200 bytes; the epoch has 8, half of the last one used
    remote = opened(address, tmp_path, limit)
    most, ended = [0], threading.Event()

    def watch():
        while not ended.wait(0.002):
            most[0] = max(most[0], taken(remote.mirror.cache))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        loader, expected = make(remote, batch=1, **how), batches(make(dataset, batch=1, **how))
        for _ in loader:  # left half-way
            break
        assert same(batches(loader), expected)
    finally:
        ended.set()
        watcher.join()
    assert 51_200 * 4 < most[0] <= limit
    assert len(list(remote.folder.glob("48/*.tar"))) <= shards


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_a_cache_that_is_too_small_is_refused_with_the_size_that_will_do(address, dataset, tmp_path, order):
    remote = opened(address, tmp_path, 60_000)
    with pytest.raises(UserError) as refused:
        make(remote, batch=1, order=order, **TRAINING)
    words = "in use at a time" if order == "windowed" else r"\(8\) that this order needs at a time"
    said = rf"cannot hold the shards of 48 px .*{words}; give --cache-size ([0-9.e-]+) or more"
    found = re.search(said, str(refused.value))
    assert found, str(refused.value)
    assert ("or train with --order windowed" in str(refused.value)) == (order == "global")
    enough = int(float(found[1]) * 1e9)
    assert same(
        batches(make(opened(address, tmp_path, enough), batch=1, order=order, **TRAINING), 1),
        batches(make(dataset, batch=1, order=order, **TRAINING), 1),
    )


def test_training_and_validation_take_turns_in_a_bounded_cache(address, dataset, tmp_path):
    """Neither keeps what the other needs, also when an epoch was cut short."""
    remote = opened(address, tmp_path, 5 * 51_200)
    training, validation = make(remote, batch=1, **TRAINING), make(remote, batch=1)
    for _ in range(2):
        for number, _ in enumerate(training):
            if number == 70:
                break
        assert len(batches(validation, 1)) == 120


@pytest.mark.parametrize("cut", [None, 50])
def test_an_iteration_that_ended_keeps_no_copy_in_use(address, tmp_path, cut):
    """At once: copies in use make no room, so that others could wait for ever for a garbage collection."""
    loader = make(opened(address, tmp_path, 5 * 51_200), batch=1, **TRAINING)

    def in_use() -> int:
        return sum(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())

    gc.disable()
    try:
        for number, _ in enumerate(loader):
            assert in_use()
            if number == cut:
                break
        assert in_use() == 0
    finally:
        gc.enable()


def test_ranks_in_step_share_a_bounded_cache_that_has_room_for_one(address, dataset, tmp_path):
    """Two loaders of the same order, each with its own mirror, that wait for one another after every batch."""
    step, seen = threading.Barrier(2, timeout=30), {}

    def rank(number: int) -> None:
        loader = make(opened(address, tmp_path, 5 * 51_200), batch=1, **TRAINING)
        seen[number] = []
        for _ in range(2):
            for _, rows in loader:
                seen[number] += rows.tolist()
                step.wait()

    ranks = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(60)
    expected = [row for _, rows in batches(make(dataset, batch=1, **TRAINING)) for row in rows.tolist()]
    assert seen == {0: expected, 1: expected}


def test_what_is_held_at_a_time_is_what_a_walk_through_the_epoch_finds(dataset):
    """Against counting, batch by batch, which windows are between the first in use and the last on its way."""
    generator = np.random.default_rng(0)

    class Bounded:
        class cache:  # noqa: N801
            limit = None

    for _ in range(30):
        shards, window = int(generator.integers(1, 12)), int(generator.integers(1, 4))
        shard_of_row = np.sort(generator.integers(0, shards, 100))
        stored = type("Stored", (), {})()
        stored.shard, stored.mirror, stored.pixels = shard_of_row, Bounded, 48
        stored.described = {shard: {"bytes": int(generator.integers(1, 100))} for shard in range(shards)}
        order, windows = windowed_order(np.arange(100), shard_of_row, 0, 0, window)
        batch, start = int(generator.integers(1, 9)), int(generator.integers(0, 60))
        reach = batch * int(generator.integers(1, 5))
        size = [sum(stored.described[int(shard)]["bytes"] for shard in some) for _, some in windows]
        first = np.array([position for position, _ in windows])
        for ahead in (0, 1, 3):
            worst = 0
            for at in range(start, 100, batch):
                stop = min(at + batch, 100)
                low = max(np.flatnonzero(first <= max(stop - reach, start))[-1], np.flatnonzero(first <= start)[-1])
                high = np.flatnonzero(first <= stop - 1)[-1] + ahead
                worst = max(worst, sum(size[low : high + 1]))
            found = most_held(stored, windows, start, reach, ahead)
            assert worst <= found <= worst + 2 * max(size)
    assert whole(stored, order)[0][1].tolist() == list(dict.fromkeys(shard_of_row[order].tolist()))
    assert depth(stored, shard_windows(np.arange(100), shard_of_row), 0, 8) >= 1


def test_a_shard_that_cannot_be_copied_ends_the_epoch_and_a_mended_bucket_begins_it_again(
    own_address, s3, dataset, tmp_path
):
    files, path = s3.filesystem(), f"{s3.bucket}/pack/48/000004.tar"
    files.rm_file(path)
    loader = make(opened(own_address, tmp_path), **TRAINING)
    with pytest.raises(UserError, match=f"{own_address}/48/000004.tar: not there"):
        batches(loader)
    assert no_threads()
    files.put_file(str(dataset.root / "48/000004.tar"), path)
    assert same(batches(loader, 1), batches(make(dataset, **TRAINING), 1))


def test_the_seconds_that_batches_waited_are_counted(address, s3, tmp_path, monkeypatch):
    with Link(s3.host, s3.port, rate=409_600) as slow:  # a second for all shards
        lead(monkeypatch, slow.environment())
        remote = opened(address, tmp_path)
        loader = make(remote, order="global", **TRAINING)
        began = time.perf_counter()
        next(iter(loader))
        lasted = time.perf_counter() - began
        assert 0.6 < remote.mirror.waited <= lasted
        assert remote.mirror.take_waited() > 0.6 and remote.mirror.take_waited() == 0
        batches(loader)
        assert remote.mirror.waited < 0.2  # all is here


def test_windows_come_while_others_are_worked_on(address, dataset, tmp_path, monkeypatch):
    """Without being asked for: what works long enough on the first window never waits again."""
    here, note = [], CopyAhead._note
    monkeypatch.setattr(CopyAhead, "_note", lambda ahead, window, shard: here.append(note(ahead, window, shard)))
    remote = opened(address, tmp_path)
    epoch, shards = iter(make(remote, **TRAINING)), len(dataset.stored(48).paths)
    next(epoch)
    deadline = time.monotonic() + 20
    while len(here) < shards and time.monotonic() < deadline:
        time.sleep(0.01)  # the work; there are as many threads as shards, so all windows are on their way
    remote.mirror.take_waited()
    assert len(list(epoch)) == 29 and remote.mirror.waited == 0
    assert len(here) == shards
