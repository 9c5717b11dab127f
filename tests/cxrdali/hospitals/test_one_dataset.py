"""Three hospitals as one dataset: labels, folds, pixels, losses and scores against what was drawn."""

import numpy as np
import pytest
import torch

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import FoldOptions, train_and_validation
from cxrdali.data.targets import counts, targets
from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule, known_targets
from shards.dataset.synonyms import FindingsMap
from shards.dataset.union import Union, UnionOptions
from tests.cxrdali.hospitals.packs import MAP

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(hospitals):
    return Union.of({name: each.dataset for name, each in hospitals.items()}, UnionOptions(FindingsMap(own=MAP)))


@pytest.fixture(scope="module")
def truth(hospitals, together):
    """float [rows, findings] from the plans: NaN where the hospital's table does not know the finding."""
    labels, catalog = together.labels(), together.catalog
    wanted = np.full((len(catalog), len(labels.findings)), np.nan)
    place = {name: number for number, name in enumerate(labels.findings)}
    for part in together.parts:
        hospital = hospitals[part.name]
        own = hospital.dataset.labels().findings
        called = dict(zip(own, [*_called(own)], strict=True))
        for row in range(part.start, part.stop):
            image = catalog["image_id"][row].partition(":")[2]
            for name, common in called.items():
                wanted[row, place[common]] = hospital.truth(image, name)
    return wanted


def _called(findings):
    """What the common name of each must be, by hand."""
    by_hand = {**MAP, "Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
    by_hand |= {"Pulmonary edema": "Edema", "No finding": "No Finding"}
    return (by_hand.get(name, name) for name in findings)


def test_every_label_is_what_was_drawn_and_what_a_table_does_not_know_is_unknown(together, truth):
    labels = together.labels()
    assert len(labels.findings) == 27 and "Rib fracture" in labels.findings  # not Fracture: another finding
    np.testing.assert_array_equal(targets(labels)[:], truth.astype(np.float32))
    unknown = np.isnan(truth)
    assert unknown.any() and (~unknown).any(axis=0).all()
    np.testing.assert_array_equal(labels.values == labels.UNKNOWN, unknown)


def test_folds_are_those_of_each_hospital_alone(hospitals, together):
    train, validation = train_and_validation(together, together.labels(), FoldOptions())
    for part in together.parts:
        alone = hospitals[part.name].dataset
        own = train_and_validation(alone, alone.labels(), FoldOptions())
        for whole, rows in zip((train, validation), own, strict=True):
            mine = whole[(whole >= part.start) & (whole < part.stop)] - part.start
            np.testing.assert_array_equal(np.sort(mine), np.sort(rows))


def test_counts_are_of_known_labels(together, truth):
    train, _ = train_and_validation(together, together.labels(), FoldOptions())
    positive, negative = counts(targets(together.labels()), train)
    np.testing.assert_array_equal(positive, (truth[train] == 1).sum(axis=0))
    np.testing.assert_array_equal(negative, (truth[train] == 0).sum(axis=0))


def test_the_loader_gives_every_image_of_every_hospital_once_with_its_own_pixels(hospitals, together):
    rows = np.flatnonzero(together.packed)
    found = {}
    for images, batch in Loader(together, rows, LoaderOptions(size=48, batch=16), seed=0, shuffle=True):
        found |= dict(zip(batch.tolist(), images, strict=True))
    assert sorted(found) == rows.tolist()
    for part in together.parts:
        alone, own = hospitals[part.name].dataset, np.arange(part.stop - part.start)
        for images, batch in Loader(alone, own, LoaderOptions(size=48, batch=16), seed=0, shuffle=False):
            for row, image in zip(batch.tolist(), images, strict=True):
                assert torch.equal(found[row + part.start], image), (part.name, row)


def test_masked_losses_are_those_of_the_known_labels(truth):
    """Binary cross-entropy and the asymmetric loss, by NumPy, of logits that are not the network's."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, truth.shape)
    wanted = torch.from_numpy(truth.astype(np.float32))
    positive, negative = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    known = ~np.isnan(truth)
    chance = 1 / (1 + np.exp(-logits))
    bce = -np.where(truth == 1, np.log(chance), np.log1p(-chance))
    lowered = np.clip(chance - 0.05, 0, None)
    asl = -np.where(truth == 1, (1 - chance) * np.log(chance), lowered**4 * np.log1p(-lowered))
    for name, terms in (("bce", bce), ("asl", asl)):
        loss = LossModule(LOSSES[name](), positive, negative)
        found = loss(torch.from_numpy(logits), wanted, 0) / known_targets(wanted)
        assert float(found) == pytest.approx(terms[known].mean(), rel=1e-6), name
