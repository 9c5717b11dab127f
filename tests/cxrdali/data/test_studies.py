"""Whole studies: which images make one, batches of them, and the loader that gives them."""

import numpy as np
import pandas as pd
import pytest
import torch

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.studies import Studies, StudyBatch
from cxrdali.data.study_loader import StudyLoader
from shards.errors import UserError


class Catalog:
    """A dataset of which nothing but the catalog is asked for."""

    def __init__(self, **columns):
        self.table = pd.DataFrame(columns)

    def arrow(self, *names):
        import pyarrow as pa

        return pa.Table.from_pandas(self.table[list(names)])

    def of_rows(self, rows, *names):
        return self.table.loc[rows, list(names)]


def catalog(studies, views, subjects=None):
    names = [str(study) for study in studies]
    return Catalog(subject_id=subjects or ["1"] * len(names), study_id=names, view=list(views))


def options(**changes):
    return LoaderOptions(**{"size": 48, "batch": 8, "threads": 2, **changes})


def rows_of(dataset):
    return np.flatnonzero(dataset.packed)


def test_large_studies_give_their_views_in_turn_in_the_order_of_the_catalog():
    views = ["frontal", "frontal", "other", "lateral", "frontal", "lateral", "frontal"]
    found = Studies.of(catalog([5] * 7, views), np.arange(7), most=4)
    assert found.rows.tolist() == [0, 3, 2, 1]  # the first of each view, then the second frontal one
    assert found.views.tolist() == [0, 1, 2, 0] and found.bounds.tolist() == [0, 4]
    assert found.first.tolist() == [0] and found.study.tolist() == [0] * 7
    assert Studies.of(catalog([5] * 7, views), np.arange(7)).rows.tolist() == [0, 3, 2, 1, 5, 4, 6]
    assert Studies.of(catalog([5] * 7, ["lateral"] * 7), np.arange(7), most=2).rows.tolist() == [0, 1]


def test_studies_are_those_of_a_subject_among_the_given_rows():
    """Equal ids of two subjects are two studies, and a study that is not contiguous is one."""
    whole = catalog([1, 2, 1, 1, 2], ["frontal"] * 5, ["a", "a", "a", "b", "a"])
    found = Studies.of(whole, np.array([0, 1, 3, 4]))
    assert found.first.tolist() == [0, 1, 3] and found.study.tolist() == [0, 1, 2, 1]
    assert found.rows.tolist() == [0, 1, 4, 3] and found.bounds.tolist() == [0, 1, 3, 4]
    places, offsets = found.images(np.array([3, 1]))
    assert found.rows[places].tolist() == [3, 1, 4] and offsets.tolist() == [0, 1, 3]


def test_studies_agree_with_a_table_grouped_by_pandas(dataset):
    rows, table = rows_of(dataset)[::2], dataset.catalog
    found = Studies.of(dataset, rows)
    groups = table.loc[rows].groupby(["subject_id", "study_id"], sort=False)
    assert len(found.first) == groups.ngroups
    for number, (_, group) in enumerate(groups):
        own = slice(*found.bounds[number : number + 2])
        assert sorted(found.rows[own]) == group.index.tolist() and found.first[number] == group.index[0]
        names = np.array(["frontal", "lateral", "other"])[found.views[own]]
        assert names.tolist() == table["view"][found.rows[own]].tolist()
    assert (table["study_id"][found.first[found.study]].to_numpy() == table["study_id"][rows].to_numpy()).all()


def test_a_batch_is_divided_between_studies_never_within_one():
    batch = StudyBatch(
        torch.arange(11)[:, None], torch.zeros(11, dtype=torch.int64), torch.tensor([0, 2, 3, 9, 10, 11])
    )
    parts = batch.split(3)
    assert [part.offsets.tolist() for part in parts] == [[0, 2, 3], [0, 6], [0, 1, 2]]
    assert [part.images[:, 0].tolist() for part in parts] == [[0, 1, 2], [3, 4, 5, 6, 7, 8], [9, 10]]
    assert len(batch.split(11)) == 1 and len(batch.split(1)) == 5 and sum(map(len, parts)) == len(batch) == 5
    study, place = batch.places()
    assert study.tolist() == [0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 4] and place.tolist() == [0, 1, 0, 0, 1, 2, 3, 4, 5, 0, 0]


@pytest.fixture(scope="module")
def pixels(dataset):
    """Of each catalog row, as the plain loader gives it."""
    found = {}
    for images, rows in Loader(dataset, rows_of(dataset), options()):
        found |= dict(zip(rows.tolist(), images.clone(), strict=True))
    return found


def check(loader, batch, first, pixels):
    """Every study with all of its images, as the plain loader has them."""
    studies = loader.studies
    for number, row in enumerate(first.tolist()):
        place = np.searchsorted(studies.first, row)
        own = slice(*studies.bounds[place : place + 2])
        inside = slice(*batch.offsets[number : number + 2].tolist())
        assert torch.equal(batch.images[inside], torch.stack([pixels[each] for each in studies.rows[own]]))
        assert batch.views[inside].tolist() == studies.views[own].tolist()


def test_an_epoch_has_every_study_once_with_its_images(dataset, pixels):
    rows = rows_of(dataset)
    loader = StudyLoader(dataset, rows, options(), most=8, shuffle=True, seed=3)
    epochs = []
    for _ in range(2):
        seen = []
        for batch, first in loader:
            check(loader, batch, first, pixels)
            seen += first.tolist()
        epochs.append(seen)
    assert sorted(epochs[0]) == sorted(epochs[1]) == Studies.of(dataset, rows).first.tolist()
    assert epochs[0] != epochs[1] and epochs[0] == loader.epoch_rows(0).tolist()


def test_evaluation_keeps_the_order_and_gives_every_image_its_study(dataset):
    rows = rows_of(dataset)
    loader = StudyLoader(dataset, rows, options(batch=7), most=2)
    first = np.concatenate([each.numpy() for _, each in loader])
    assert (first == loader.rows).all() and len(loader) == -(-len(first) // 7)
    ids = dataset.catalog["study_id"].to_numpy()
    assert (ids[loader.by_image(first)] == ids[rows]).all()


@pytest.mark.parametrize("position", [8, 24])
def test_an_epoch_goes_on_where_it_was_left(dataset, position):
    """With other threads, and the same augmentation."""

    def epoch(threads, start):
        how = {"shuffle": True, "drop_last": True, "seed": 5, "augment": AugmentOptions()}
        loader = StudyLoader(dataset, rows_of(dataset), options(threads=threads), most=8, **how)
        loader.load_state_dict({"epoch": 1, "position": start})
        found = []
        for batch, first in loader:
            found.append((first, batch))
            assert loader.state_dict() == {"epoch": 1, "position": start + 8 * len(found)}
        return found

    whole, rest = epoch(2, 0), epoch(1, position)
    assert len(rest) == len(whole) - position // 8 > 0
    for (first, batch), (again, other) in zip(whole[position // 8 :], rest, strict=True):
        assert torch.equal(first, again) and torch.equal(batch.images, other.images)
        assert torch.equal(batch.offsets, other.offsets) and torch.equal(batch.views, other.views)


def test_ranks_share_every_batch_of_training_and_whole_batches_of_evaluation(dataset, pixels):
    rows = rows_of(dataset)
    for how in ({"shuffle": True, "drop_last": True}, {}):
        one, *parts = (
            StudyLoader(dataset, rows, options(), most=8, rank=rank, world=world, **how)
            for rank, world in ((0, 1), (0, 2), (1, 2))
        )
        found = [
            [(first.tolist(), check(each, batch, first, pixels)) for batch, first in each] for each in (one, *parts)
        ]
        alone, *shares = ([first for first, _ in each] for each in found)
        if how:
            assert alone == [a + b for a, b in zip(*shares, strict=True)]
        else:
            assert alone[::2] == shares[0] and alone[1::2] == shares[1]


def test_windows_of_shards_and_resized_images_give_whole_studies_too(dataset, pixels):
    """Another size is DALI's to read, where a batch may have as many images as all its studies at most."""
    windowed = options(order="windowed", window=2)
    loader = StudyLoader(dataset, rows_of(dataset), windowed, most=8, shuffle=True)
    order, windows = loader.epoch_order(0)
    shards = loader.mapped.stored.shard[order]
    for (start, own), stop in zip(windows, [*[at for at, _ in windows[1:]], len(order)], strict=True):
        assert set(shards[start:stop]) <= set(own)
    for batch, first in loader:
        check(loader, batch, first, pixels)
    small = options(size=40)
    plain = {}
    for images, rows in Loader(dataset, rows_of(dataset), small):
        plain |= dict(zip(rows.tolist(), images.clone(), strict=True))
    resized = StudyLoader(dataset, rows_of(dataset), small, most=8, shuffle=True)
    for batch, first in resized:
        check(resized, batch, first, plain)


def test_batches_of_any_length_share_their_memory(dataset):
    loader = StudyLoader(dataset, rows_of(dataset), options(), most=8, shuffle=True)
    lengths = set()
    for _ in range(3):
        for batch, _ in loader:
            lengths.add(len(batch.images))
    assert len(lengths) > 4 and len(loader.buffers) <= 4


def test_a_rejected_image_or_too_few_studies_are_refused(dataset):
    with pytest.raises(UserError, match="training studies make no batch of 500"):
        StudyLoader(dataset, rows_of(dataset), options(batch=500), most=8, drop_last=True)
