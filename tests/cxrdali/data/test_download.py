"""Epochs over a dataset in a bucket: the batches of a local one, with shards that are copied ahead of them."""

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.download import in_order_of_need
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from shards.dataset.cache import Cache
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.remote import place
from tests.s3 import Link, lead

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_limit")]
TRAINING = {"shuffle": True, "drop_last": True, "augment": AugmentOptions()}


def opened(address: str, folder: Path) -> PackedDataset:
    return PackedDataset.open(place(address), Cache(folder / "cache"))


def make(dataset: PackedDataset, size: int = 48, batch: int = 4, order: str = "windowed", **more) -> Loader:
    options = LoaderOptions(size, batch, threads=2, order=order, window=2)
    return Loader(dataset, np.flatnonzero(dataset.packed), options, **more)


def batches(loader: Loader, epochs: int = 2) -> list:
    return [(images.numpy().copy(), rows.numpy()) for _ in range(epochs) for images, rows in loader]


def same(ours: list, theirs: list) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)
    )


def no_threads(seconds: float = 5) -> bool:
    """Whether the threads that copy end in time."""
    deadline = time.monotonic() + seconds
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
    order, windows = loader.epoch_order(0)
    position = windows[2][0] + 3
    loader.load_state_dict({"epoch": 0, "position": position})
    rows = np.concatenate([rows for _, rows in batches(loader, 1)])
    assert np.array_equal(rows, order[position : position + len(rows)])
    here = {int(path.stem) for path in remote.folder.glob("48/*.tar")}
    assert here == {int(shard) for _, shards in windows[2:] for shard in shards}


def test_an_epoch_left_half_way_and_the_next_share_what_is_copied(address, dataset, tmp_path):
    loader = make(opened(address, tmp_path), batch=1, **TRAINING)
    for number, _ in enumerate(loader):
        if number == 5:
            break
    assert same(batches(loader), batches(make(dataset, batch=1, **TRAINING)))
    assert no_threads()


def test_a_disk_without_room_for_what_the_rows_need_is_refused_before_a_copy(address, tmp_path, monkeypatch):
    remote = opened(address, tmp_path)
    in_two = np.flatnonzero(remote.packed & (remote.stored(48).shard < 2))
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * 51_200)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match="409,600 bytes of the 48 px shards are .* but 102,400 bytes are free on its"):
        make(remote)
    assert not (remote.folder / "48").exists()
    found = batches(Loader(remote, in_two, LoaderOptions(48, 4, threads=2)), 1)
    assert np.concatenate([rows for _, rows in found]).tolist() == in_two.tolist()


def test_shards_come_in_the_order_in_which_they_are_needed():
    assert in_order_of_need(np.array([3, 3, 1, 2, 1, 3])).tolist() == [3, 1, 2]


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


def test_windows_come_while_others_are_worked_on(address, dataset, tmp_path):
    """Without being asked for: what works long enough on the first window never waits again."""
    remote = opened(address, tmp_path)
    epoch = iter(make(remote, **TRAINING))
    next(epoch)
    assert no_threads(20)  # the work: all windows are on their way
    remote.mirror.take_waited()
    assert len(list(epoch)) == 29 and remote.mirror.waited == 0
    assert len(list(remote.folder.glob("48/*.tar"))) == len(dataset.stored(48).paths)
