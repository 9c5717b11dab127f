"""Packs of different sizes and kinds in one batch: every image as its own pack's loader makes it, wherever it lies."""

import shutil

import numpy as np
import pytest
import torch

from cxrdali.data.augment import AugmentOptions, decide
from cxrdali.data.loader import Loader, nearest_stored, stored_for
from cxrdali.data.mix import mixed_rows
from cxrdali.data.options import LoaderOptions
from shards.dataset.cache import Cache
from shards.dataset.mapped import MappedSize, StoredSize
from shards.dataset.packed import PackedDataset
from shards.dataset.union import Union
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from shards.storage.remote import place
from tests.cxrdali.data.test_loader import epoch
from tests.cxrdali.data.test_raw import OnDevice
from tests.cxrdali.reference import augmented

SIZE, BATCH = 48, 24
AUGMENT = AugmentOptions(side=0.15)


@pytest.fixture(scope="module")
def packs(pack_folder, release_folder, tmp_path_factory):
    """JPEG of 48 px, raw of 48 px, and JPEG of 64 px alone."""
    root = tmp_path_factory.mktemp("packs")
    for name, size, images in (("raw", Size(SIZE, raw=True), 16), ("large", Size(64), 24)):
        pack(open_release(release_folder), root / name, PackOptions(sizes=(size,), shard_images=images))
    return {
        "jpeg": PackedDataset.open(pack_folder),
        "raw": PackedDataset.open(root / "raw"),
        "large": PackedDataset.open(root / "large"),
    }


@pytest.fixture(scope="module")
def union(packs):
    return Union.of(packs)


@pytest.fixture(scope="module")
def alone(packs):
    """uint8 [rows, 48, 48]: what each pack's own loader makes of its images, in order; DALI resizes 64 px."""
    loaders = [Loader(each, np.arange(len(each.packed)), LoaderOptions(SIZE, 40)) for each in packs.values()]
    return np.concatenate([batch.images.numpy()[:, 0] for loader in loaders for batch in loader])


def training(union, seed=0, augment=AUGMENT, rank=0, world=1, sampler=None, **options):
    rows = np.arange(len(union.packed))
    how = {"seed": seed, "shuffle": True, "augment": augment, "drop_last": True, "sampler": sampler}
    return Loader(union, rows, LoaderOptions(SIZE, BATCH, **options), rank=rank, world=world, **how)


# ---------------------------------------------------------------- pixels


def test_every_image_is_as_in_its_own_pack(union, alone):
    loader = Loader(union, np.arange(len(alone)), LoaderOptions(SIZE, BATCH))
    rows, images = epoch(loader)
    assert rows.tolist() == list(range(360)) and (images[:, 0] == alone).all()
    assert loader.mapped.stored.kinds == [(48, False), (48, True), (64, False)] and loader.resized_from == 64


def test_the_packs_are_not_the_same_images_to_the_pixel(alone):
    """Or the test above would not see a mistaken pack."""
    jpeg, raw, large = alone.reshape(3, 120, SIZE, SIZE)
    assert (jpeg != raw).any(axis=(1, 2)).all() and (jpeg != large).any(axis=(1, 2)).all()


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 3}, {"prefetch": 5}, {"order": "windowed"}])
def test_augmented_pixels_equal_the_numpy_reference(union, alone, options):
    loader = training(union, seed=5, window=3, **options)
    loader.set_epoch(2)
    rows, images = epoch(loader)
    assert rows.tolist() == loader.epoch_rows(2).tolist() and sorted(rows.tolist()) == list(range(360))
    made = decide(AUGMENT, 5, 2, 0, len(rows), SIZE)
    assert all((images[place, 0] == augmented(alone[row], made, place)).all() for place, row in enumerate(rows))


def test_without_numba_the_pixels_are_the_same(union, monkeypatch):
    rows, images = epoch(training(union))
    monkeypatch.setattr("cxrdali.data.raw.compiled", lambda: None)
    other_rows, other = epoch(training(union))
    assert (rows == other_rows).all() and (images == other).all()


def test_packs_of_one_kind_are_read_as_one_pack(packs, pack_folder, alone):
    both = Union.of({"one": packs["jpeg"], "two": PackedDataset.open(pack_folder)})
    loader = Loader(both, np.arange(240), LoaderOptions(SIZE, BATCH))
    assert loader.mapped.stored.kinds == [(48, False)]
    assert (epoch(loader)[1][:, 0] == np.concatenate([alone[:120], alone[:120]])).all()
    resized = Loader(both, np.arange(240), LoaderOptions(40, BATCH))
    own = Loader(packs["jpeg"], np.arange(120), LoaderOptions(40, BATCH))
    assert (epoch(resized)[1] == np.concatenate([epoch(own)[1]] * 2)).all()


def test_two_kinds_of_a_larger_size_are_resized_as_alone(packs):
    """56 px raw and 64 px JPEG, for 50 px."""
    stored = Union.of({"jpeg": packs["jpeg"], "large": packs["large"]})
    loader = Loader(stored, np.arange(240), LoaderOptions(50, BATCH))
    assert loader.mapped.stored.kinds == [(56, True), (64, False)]
    own = [Loader(packs[name], np.arange(120), LoaderOptions(50, BATCH)) for name in ("jpeg", "large")]
    assert (epoch(loader)[1] == np.concatenate([epoch(each)[1] for each in own])).all()


# ---------------------------------------------------------------- resume, ranks, windows, mix


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_resuming_at_every_step_continues_with_the_same_pixels(union, order):
    options = {"order": order, "window": 4, "seed": 3}
    loader, states, batches = training(union, **options), [], []
    for batch in loader:
        states.append(loader.state_dict())
        batches.append(batch)
    assert len(batches) == 15
    for step, state in enumerate(states[:-1]):
        resumed = training(union, **options)
        resumed.load_state_dict(state)
        for one, two in zip(resumed, batches[step + 1 :], strict=True):
            assert (one.rows == two.rows).all() and (one.images == two.images).all()


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("order", ["global", "windowed"])
def test_ranks_together_make_the_batches_of_one(union, world, order):
    rows, images = epoch(training(union, order=order, window=4))
    parts = [epoch(training(union, order=order, window=4, rank=rank, world=world)) for rank in range(world)]
    share = BATCH // world
    for step in range(15):
        for rank, (own_rows, own) in enumerate(parts):
            whole = slice(step * BATCH + rank * share, step * BATCH + (rank + 1) * share)
            part = slice(step * share, (step + 1) * share)
            assert (own_rows[part] == rows[whole]).all() and (own[part] == images[whole]).all()


def test_ranks_share_an_evaluation_s_batches(union, alone):
    found = {}
    for rank in range(4):
        loader = Loader(union, np.arange(360), LoaderOptions(SIZE, BATCH), rank=rank, world=4)
        rows, images = epoch(loader)
        assert rows.tolist() == loader.own_places().tolist()
        found |= dict(zip(rows.tolist(), images[:, 0], strict=True))
    assert sorted(found) == list(range(360)) and all((found[row] == alone[row]).all() for row in found)


def test_each_pack_s_shards_are_spread_over_the_windows(union):
    """8, 8 and 5 shards in windows of 4: one of each pack and one more, not all of one."""
    loader = training(union, order="windowed", window=4)
    for epoch_number in range(3):
        order, windows = loader.epoch_order(epoch_number)
        assert sorted(np.concatenate([shards for _, shards in windows]).tolist()) == list(range(21))
        for _, shards in windows[:-1]:
            assert set(loader.mapped.stored.pack_of(shards).tolist()) == {0, 1, 2}
        first, stop = windows[1][0], windows[2][0]
        assert set(loader.mapped.stored.shard[order[first:stop]].tolist()) == set(windows[1][1].tolist())


def test_a_mix_is_resumed_and_shared_by_ranks(union, alone):
    def sampler(epoch):
        return mixed_rows(np.split(np.arange(360), 3), [200, 100, 60], 7, epoch)

    rows, images = epoch(training(union, sampler=sampler, augment=None))
    assert np.bincount(rows // 120).tolist() == [200, 100, 60] and (images[:, 0] == alone[rows]).all()
    resumed = training(union, sampler=sampler, augment=None, rank=1, world=2)
    resumed.load_state_dict({"epoch": 0, "position": 3 * BATCH})
    own, _ = epoch(resumed)
    assert own.tolist() == rows.reshape(15, 2, BATCH // 2)[3:, 1].ravel().tolist()


# ---------------------------------------------------------------- as for a GPU


def test_what_goes_to_a_gpu_is_made_of_mixed_kinds(union, alone):
    rows = np.arange(360)
    loader = Loader(union, rows, OnDevice(SIZE, BATCH), seed=3, shuffle=True, augment=AUGMENT, drop_last=True)
    order, images = epoch(loader)
    made = decide(AUGMENT, 3, 0, 0, len(order), SIZE)
    assert all((images[place, 0] == augmented(alone[row], made, place)).all() for place, row in enumerate(order))
    assert isinstance(next(iter(loader)).images, torch.Tensor)


@pytest.mark.parametrize("decode", ["mixed", "hybrid"])
def test_a_gpu_cannot_decode_mixed_kinds(union, decode):
    with pytest.raises(UserError) as raised:
        Loader(union, np.arange(9), OnDevice(SIZE, 3, decode=decode))
    assert str(raised.value) == (
        f"decode '{decode}': 48 px JPEG and 48 px raw and 64 px JPEG renditions of {union.root} are decoded together, "
        "which the CPU does; use --decode cpu, or pack all at one size and as one kind"
    )


# ---------------------------------------------------------------- stored sizes


def test_joined_sizes_are_found_by_shard_and_row(packs, union):
    parts = [each.stored(nearest_stored(each, SIZE)) for each in packs.values()]
    stored = StoredSize.joined(parts)
    assert StoredSize.joined(parts[:1]) is parts[0]
    assert sorted(stored.paths) == list(range(21)) and stored.first == (0, 8, 16)
    mapped, at = MappedSize(stored), 0
    for part in parts:
        own = MappedSize(part)
        for row in (0, 17, 119):
            assert (mapped[at + row] == own[row]).all()
            assert stored.paths[stored.shard[at + row]] == part.paths[part.shard[row]]
        at += 120
    assert [
        (pixels, raw, places.tolist()) for pixels, raw, places in stored.alike(np.array([300, 5, 130, 299, 0]))
    ] == [
        (48, False, [1, 4]),
        (48, True, [2]),
        (64, False, [0, 3]),
    ]


def test_rejected_rows_stay_without_a_shard(packs):
    one = packs["jpeg"].stored(SIZE)
    shard = one.shard.copy()
    shard[3] = -1
    rejected = StoredSize(48, False, one.paths, one.described, shard, one.offset, one.length)
    assert np.flatnonzero(StoredSize.joined([one, rejected]).shard < 0).tolist() == [123]


def test_a_pack_without_such_a_size_is_named(packs, union):
    with pytest.raises(
        UserError, match=rf"{packs['raw'].root}: no rendition of 50 pixels or more is stored \(stored: 48"
    ):
        Loader(union, np.arange(8), LoaderOptions(50, 8))
    assert nearest_stored(union, 40) == 64 and stored_for(union, 40).pixels == 64


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(("name", "row"), [("jpeg", 17), ("large", 99)])
def test_a_damaged_sample_names_its_own_pack(packs, tmp_path, name, row):
    copy = tmp_path / "pack"
    shutil.copytree(packs[name].root, copy)
    stored = PackedDataset.open(copy).stored(nearest_stored(packs[name], SIZE))
    path = stored.paths[stored.shard[row]]
    with path.open("r+b") as file:
        file.seek(stored.offset[row] + 100)
        file.write(bytes(stored.length[row] - 100))
    broken = PackedDataset.open(copy)
    with pytest.raises(UserError) as raised:
        list(Loader(Union.of({**packs, name: broken}), np.arange(360), LoaderOptions(SIZE, BATCH)))
    assert str(raised.value).startswith(f"{path}: sample {broken.key(row)!r} is damaged (")
    assert str(raised.value).endswith(f"run `cxrdali verify {copy}`, then restore the shard or pack again")


def test_a_raw_image_of_another_length_names_its_own_row(packs, union):
    loader = training(union)
    stored = loader.mapped.stored
    stored.length[137] += 1
    try:
        path = packs["raw"].stored(SIZE).paths[1]
        with pytest.raises(UserError, match=rf"{path}: catalog row 17 has 2,433 bytes .* not 2,432 within the shard"):
            list(loader)
    finally:
        stored.length[137] -= 1


# ---------------------------------------------------------------- buckets


@pytest.mark.slow
@pytest.mark.parametrize("order", ["global", "windowed"])
def test_some_packs_may_be_in_a_bucket(packs, alone, s3, packed_bucket, tmp_path, order):
    remote = PackedDataset.open(place(packed_bucket), Cache(tmp_path))
    both = Union.of({"raw": packs["raw"], "bucket": remote, "large": packs["large"]})
    expected = alone.reshape(3, 120, SIZE, SIZE)[[1, 0, 2]].reshape(360, SIZE, SIZE)
    loader = training(both, augment=None, order=order, window=4)
    rows, images = epoch(loader)
    assert (images[:, 0] == expected[rows]).all() and len(list(tmp_path.rglob("*.tar"))) == 8
    assert remote.mirror.take_waited() > 0
    given = Loader(both, np.arange(360), LoaderOptions(SIZE, BATCH))  # windows of packs that are here, too
    assert len(given.epoch_order(0)[1]) == 21 and (epoch(given)[1][:, 0] == expected).all()


@pytest.mark.slow
def test_the_room_of_all_buckets_is_looked_at_together(s3, packed_bucket, tmp_path, monkeypatch):
    location = place(packed_bucket)
    one, two = (PackedDataset.open(location, Cache(tmp_path / name)) for name in ("one", "two"))
    needed = sum(shard["bytes"] for shard in one.info["sizes"]["48"]["shards"])
    usage = shutil.disk_usage(tmp_path)._replace(free=needed * 3 // 2)  # enough for either
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    Loader(one, np.arange(120), LoaderOptions(SIZE, BATCH))
    with pytest.raises(
        UserError, match=rf"{2 * needed:,} bytes of the 48 px shards and of other packs are still to be"
    ):
        Loader(Union.of({"one": one, "two": two}), np.arange(240), LoaderOptions(SIZE, BATCH))
