import numpy as np
import pytest

from cxrdali.data.splits import (
    FoldOptions,
    group_codes,
    released_rows,
    rows_sha256,
    select,
    subjects_on_both_sides,
    train_and_validation,
)
from shards.errors import UserError


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
