import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.model_selection import GroupKFold

from cxrdali.data.splits import (
    FoldOptions,
    balanced_parts,
    fold_positives,
    group_codes,
    hashed_parts,
    released_rows,
    rows_sha256,
    select,
    subjects_on_both_sides,
    train_and_validation,
)
from shards.dataset.union import Union, UnionOptions
from shards.errors import UserError
from tests.cxrdali.folds_by_hand import folds_by_hand, parts_by_hand


@pytest.fixture(scope="module")
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


def test_a_fold_divides_the_released_training_split(dataset, labels):
    train, validation = train_and_validation(dataset, labels, FoldOptions(fold=1))
    released = released_rows(dataset, labels, "train")
    assert sorted([*train, *validation]) == released.tolist()
    assert 0.1 < len(validation) / len(released) < 0.3


def test_the_folds_together_validate_every_image_once(dataset, labels):
    validations = [train_and_validation(dataset, labels, FoldOptions(fold=fold))[1] for fold in range(5)]
    assert sorted(np.concatenate(validations)) == released_rows(dataset, labels, "train").tolist()


@pytest.mark.parametrize("group", ["subject", "study"])
def test_no_group_stands_on_both_sides(dataset, labels, group):
    train, validation = train_and_validation(dataset, labels, FoldOptions(group=group))
    codes = group_codes(dataset, group)
    assert not set(codes[train]) & set(codes[validation])


def test_grouping_by_study_leaks_subjects_and_counts_them(dataset, labels):
    train, validation = train_and_validation(dataset, labels, FoldOptions(group="study"))
    subjects = dataset.catalog["subject_id"].to_numpy()
    both = set(subjects[train]) & set(subjects[validation])
    assert both and subjects_on_both_sides(dataset, train, validation) == len(both)
    train, validation = train_and_validation(dataset, labels, FoldOptions(group="subject"))
    assert subjects_on_both_sides(dataset, train, validation) == 0


def test_splits_are_the_label_releases_own(dataset, labels):
    for split in ("dev", "test"):
        rows = select(dataset, labels, split, FoldOptions())
        assert set(labels.split[rows]) == {split}
    assert select(dataset, labels, "all", FoldOptions()).tolist() == list(range(len(dataset.catalog)))
    train, validation = train_and_validation(dataset, labels, FoldOptions())
    assert select(dataset, labels, "val", FoldOptions()).tolist() == validation.tolist()
    assert select(dataset, labels, "train", FoldOptions()).tolist() == train.tolist()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fold": 5}, "fold 5: 0 to 4"),
        ({"folds": 1}, "folds 1: at least 2"),
        ({"group": "image"}, "group 'image': choose one of subject, study"),
        ({"fold_seed": -1}, "fold-seed -1: 0 to 2"),
        ({"fold_rule": "id"}, "fold-rule 'id': did you mean ids"),
        ({"fold_rule": "catalog", "stratify": True}, "fold-rule catalog: has neither a fold-seed nor stratify"),
        ({"fold_rule": "catalog", "fold_seed": 1}, "fold-rule catalog: has neither a fold-seed nor stratify"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        FoldOptions(**options)


def test_more_folds_than_subjects_is_an_error(dataset, labels):
    with pytest.raises(UserError, match="18 subject groups .* 19 folds need at least as many"):
        train_and_validation(dataset, labels, FoldOptions(folds=19))


def test_an_unknown_split_is_named(dataset, labels):
    with pytest.raises(UserError, match="split 'holdout': choose one of train, val, dev, test, all"):
        select(dataset, labels, "holdout", FoldOptions())


def test_the_fingerprint_knows_rows_and_their_order():
    assert rows_sha256(np.array([1, 2])) != rows_sha256(np.array([2, 1]))
    assert rows_sha256(np.array([1, 2])) == rows_sha256(np.array([1, 2], dtype=np.int32))


# ---------------------------------------------------------------- ids and seed alone

# a train split as MIMIC-CXR's with labels of CXR-LT 2023: studies a patient and images a study with their long tails
PATIENTS, SHARES = 46_000, np.array([0.337, 0.255, 0.146, 0.061, 0.039, 0.016, 0.010, 0.004, 0.002])


@pytest.fixture(scope="module")
def mimic():
    """A row per image: subject and study ids, and which findings it has, alike within patients."""
    rng = np.random.default_rng(0)
    studies = np.minimum(1 + rng.negative_binomial(0.35, 0.35 / 2.85, PATIENTS), 180)
    subject = np.repeat(10_000_000 + rng.permutation(9 * PATIENTS)[:PATIENTS], studies)
    latent = np.repeat(rng.normal(size=(PATIENTS, 9)), studies, axis=0) * 0.8 + 0.6 * rng.normal(size=(len(subject), 9))
    images = 1 + np.minimum(rng.poisson(0.66, len(subject)), 10)
    table = pd.DataFrame({"subject": subject.astype(str), "study": (50_000_000 + np.arange(len(subject))).astype(str)})
    return table.loc[table.index.repeat(images)], np.repeat(latent > -norm.ppf(SHARES), images, axis=0)


def test_a_fold_follows_from_the_id_and_the_seed_as_worked_by_hand(dataset, labels):
    released, catalog = released_rows(dataset, labels, "train"), dataset.catalog
    for seed, folds, group in ((0, 5, "subject"), (3, 4, "subject"), (0, 5, "study")):
        ids = catalog["subject_id"] + ("" if group == "subject" else "/" + catalog["study_id"])
        expected = folds_by_hand(ids.iloc[released], folds, seed)
        for fold in range(folds):
            options = FoldOptions(fold, folds, group, seed)
            assert train_and_validation(dataset, labels, options)[1].tolist() == released[expected == fold].tolist()


def test_ids_of_every_version_and_machine_have_these_folds():
    assert hashed_parts(["10000032", "10000764", "s1", "s2", "s3"], 5).tolist() == [2, 1, 3, 2, 4]
    assert hashed_parts(["10000032", "10000764", "s1", "s2", "s3"], 5, seed=1).tolist() == [4, 0, 3, 0, 2]


def test_no_order_and_no_other_patient_moves_a_patient(mimic):
    table, _ = mimic
    ids, rng = table["subject"].to_numpy(), np.random.default_rng(1)
    part = hashed_parts(ids, 5)
    order = rng.permutation(len(ids))
    assert (hashed_parts(ids[order], 5) == part[order]).all()
    some = rng.random(len(ids)) < 0.3  # images of anybody that are gone, or that came
    assert (hashed_parts(ids[some], 5) == part[some]).all()
    assert (hashed_parts([*ids, "new"], 5)[:-1] == part).all()
    assert not (hashed_parts(ids, 5, seed=1) == part).all()


@pytest.mark.slow
def test_folds_of_many_studies_have_the_sizes_of_group_k_fold(mimic):
    """Yamagishi & Hanaoka's 211,879 and 52,970 of 264,849 images: within 1 %; by subject the tail is heavier."""
    table, _ = mimic
    part = hashed_parts((table["subject"] + "/" + table["study"]).to_numpy(), 5)
    (inside, held_out), *_ = GroupKFold(5).split(part, groups=table["study"])
    assert 260_000 < len(part) < 272_000
    assert (part == 0).sum() == pytest.approx(len(held_out), rel=0.01)
    assert (part != 0).sum() == pytest.approx(len(inside), rel=0.01)
    for column, allowed in (("study", 0.006), ("subject", 0.017)):  # standard deviation of a fold's size
        sizes = table[column].value_counts().to_numpy(dtype=float)
        assert 0.9 * allowed < np.sqrt(0.16 * (sizes**2).sum()) / (sizes.sum() / 5) < allowed  # binomial
        seeds = [np.bincount(hashed_parts(table[column], 5, seed), minlength=5) for seed in range(6)]
        assert np.std(seeds) / (len(table) / 5) < 1.4 * allowed  # 30 sizes: a chance of 1 in 1,000


def test_an_empty_fold_says_what_helps(dataset, labels):
    subjects = pd.unique(dataset.catalog["subject_id"].iloc[released_rows(dataset, labels, "train")])
    empty = set(range(10)) - set(folds_by_hand(subjects, 10))
    options = FoldOptions(fold=min(empty), folds=10)
    words = f"fold {min(empty)} of 10 holds none of the subject groups in the training split of 'cxr-lt-2023'"
    with pytest.raises(UserError, match=f"{words}: ids decide; give --stratify, which fills folds evenly, another"):
        train_and_validation(dataset, labels, options)
    assert len(train_and_validation(dataset, labels, dataclasses.replace(options, stratify=True))[1])


def test_the_former_rule_is_group_k_fold_on_the_catalog(dataset, labels):
    released = released_rows(dataset, labels, "train")
    groups = pd.factorize(dataset.catalog["subject_id"])[0][released]
    for fold, (inside, held_out) in enumerate(GroupKFold(5).split(released, groups=groups)):
        train, validation = train_and_validation(dataset, labels, FoldOptions(fold, fold_rule="catalog"))
        assert (train.tolist(), validation.tolist()) == (released[inside].tolist(), released[held_out].tolist())


# ---------------------------------------------------------------- balanced parts


@pytest.mark.parametrize("column", ["subject", "study"])
def test_stratified_parts_have_as_many_of_every_finding(mimic, column):
    table, positive = mimic
    ids = table[column].to_numpy()
    part = balanced_parts(ids, 5, positives=positive)
    assert (pd.DataFrame({"id": ids, "part": part}).groupby("id")["part"].nunique() == 1).all()
    counts = np.stack([positive[part == each].sum(axis=0) for each in range(5)])
    assert (np.ptp(counts, axis=0) <= np.maximum(3, 0.005 * positive.sum(axis=0))).all()
    assert np.bincount(part) == pytest.approx(np.full(5, len(part) / 5), rel=0.001)
    rarest = positive.sum(axis=0).argmin()
    by_hash = np.bincount(hashed_parts(ids, 5)[positive[:, rarest]], minlength=5)
    assert np.ptp(by_hash) > 10 * np.ptp(counts[:, rarest])


def test_parts_follow_from_ids_and_labels_in_any_order(mimic):
    table, positive = (each[:3000] for each in mimic)
    ids, order = table["subject"].to_numpy(), np.random.default_rng(2).permutation(3000)
    for given in (None, positive):
        part = balanced_parts(ids, 5, positives=given)
        assert (balanced_parts(ids[order], 5, positives=None if given is None else given[order]) == part[order]).all()
    assert balanced_parts(ids, 5).tolist() == parts_by_hand(ids, 5).tolist()
    assert balanced_parts(ids, 5, seed=4).tolist() == parts_by_hand(ids, 5, 4).tolist()


def test_a_few_groups_by_hand():
    """b and d have the rare finding, each goes to a part of its own; a and c, of three images and one, even it out."""
    groups, rare = [*"aaabcdd"], np.array([0, 0, 0, 1, 0, 1, 0], bool)
    part = dict(zip(groups, balanced_parts(groups, 2, positives=rare[:, None]).tolist(), strict=True))
    assert part["b"] != part["d"] and part["a"] == part["b"] and part["c"] == part["d"]


def test_positives_are_counted_in_every_fold(dataset, labels):
    options = FoldOptions(stratify=True)
    found = fold_positives(dataset, labels, options)
    for fold in range(5):
        _, rows = train_and_validation(dataset, labels, dataclasses.replace(options, fold=fold))
        counts = dict(zip(labels.findings, (labels.values[rows] == 1).sum(axis=0), strict=True))
        assert {name: each[fold] for name, each in found.items()} == {name: counts[name] for name in found}
        assert all(counts[name] == 0 for name in set(counts) - set(found)) and "Hernia" not in found
    assert [*map(sum, found.values())] == sorted(map(sum, found.values()))


@pytest.mark.parametrize(
    "options",
    [
        FoldOptions(fold=1, folds=3),
        FoldOptions(fold=2, folds=3, group="study", fold_seed=4),
        FoldOptions(folds=3, stratify=True),
        FoldOptions(folds=3, fold_rule="catalog"),
    ],
)
def test_folds_of_several_packs_are_those_of_each_alone(dataset, nih, options):
    union = Union.of({"nih": nih, "mimic": dataset})
    found = train_and_validation(union, union.labels(), options)
    for place, rows in enumerate(found):
        alone = [train_and_validation(pack, pack.labels(), options)[place] for pack in (nih, dataset)]
        assert rows.tolist() == [*alone[0], *(alone[1] + len(nih.packed))]
    assert subjects_on_both_sides(union, *found) == sum(
        subjects_on_both_sides(pack, *train_and_validation(pack, pack.labels(), options)) for pack in (nih, dataset)
    )


def test_splits_of_several_packs_are_those_that_have_them(dataset, nih):
    union = Union.of({"mimic": dataset, "nih": nih})
    dev = select(union, union.labels(), "dev", FoldOptions())  # nih has no such split
    assert dev.tolist() == select(dataset, dataset.labels(), "dev", FoldOptions()).tolist()
    test = select(union, union.labels(), "test", FoldOptions())
    assert (test >= 120).sum() == len(select(nih, nih.labels(), "test", FoldOptions())) > 0


def test_patients_of_two_packs_are_on_one_side(dataset):
    """Equal patients have equal ids, so that hashing puts them into one fold; nothing else would."""
    union = Union.of({"a": dataset, "b": dataset}, UnionOptions(same_patients=(("a", "b"),)))
    train, validation = train_and_validation(union, union.labels(), FoldOptions(folds=3))
    assert len(validation) and subjects_on_both_sides(union, train, validation) == 0
