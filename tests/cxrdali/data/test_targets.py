import numpy as np
import pytest

from cxrdali.data.targets import any_positive, check_labelled, counts, targets
from shards.dataset.labels import Labels, PackLabels
from shards.errors import UserError

LABELS = Labels("hand", ("A", "B", "C", "D"), np.array(["train"]), np.array([[1, 0, -1, 9]], dtype=np.int8), "")


@pytest.mark.parametrize(
    "uncertain, expected",
    [
        ("negative", [1, 0, 0, 0]),
        ("positive", [1, 0, 1, 0]),
        ("ignore", [1, 0, np.nan, 0]),  # U-Ignore of CheXpert (Irvin et al. 2019): -1 alone
        ("ignore-all", [1, 0, np.nan, np.nan]),
        ("ignore-all; C=positive", [1, 0, 1, np.nan]),
        ("negative; C=ignore; D=ignore-all", [1, 0, np.nan, np.nan]),
        ("smooth", [1, 0, 1, 0]),  # for class counts and scores; the loss: below
        ("positive; C=smooth-zeros", [1, 0, 0, 0]),
    ],
)
def test_uncertain_and_blank_are_decided_per_run(uncertain, expected):
    np.testing.assert_array_equal(targets(LABELS, uncertain), [expected])
    assert LABELS.values.tolist() == [[1, 0, -1, 9]]  # the table keeps what was released


def test_a_smoothed_uncertain_label_is_soft_in_training_alone():
    """The middles of Pham et al.'s U(0.55, 0.85) and U(0, 0.3)."""
    stored = np.array([[-1, -1, -1], [1, 0, 9], [0, 1, -1]], dtype=np.int8)
    labels = Labels("hand", ("A", "B", "C"), np.array(["train"] * 3), stored, "")
    wanted = targets(labels, "smooth; B=smooth-zeros; C=ignore")
    nan = np.nan
    np.testing.assert_array_equal(wanted, [[1, 0, nan], [1, 0, 0], [0, 1, nan]])
    np.testing.assert_allclose(wanted.in_training, [[0.7, 0.15, nan], [1, 0, 0], [0, 1, nan]])
    np.testing.assert_allclose(wanted.of([2, 1]).in_training[[0, 2]], [[nan, 0.15], [nan, 1]])
    assert [each.tolist() for each in counts(wanted, np.arange(3))] == [[2, 1, 0], [1, 2, 1]]
    hard = targets(labels, "positive; B=ignore")
    assert hard.in_training is hard


def test_positives_and_negatives_are_counted_over_the_given_rows():
    stored = np.array([[1, 0, -1], [1, -1, 9], [0, 0, 1], [1, 1, 1]], dtype=np.int8)
    wanted = targets(Labels("hand", ("A", "B", "C"), np.array(["train"] * 4), stored, ""), "ignore-all; C=positive")
    positives, negatives = counts(wanted, np.array([0, 1, 2, 0]))
    assert positives.tolist() == [3, 0, 3] and negatives.tolist() == [1, 3, 1]


@pytest.mark.parametrize("uncertain", ["negative", "positive", "ignore", "ignore-all; B=positive"])
def test_targets_of_many_rows_are_those_of_each(uncertain):
    """In pieces, against what NumPy counts of all values at once; doubled rows count twice."""
    rng = np.random.default_rng(0)
    labels = Labels("hand", ("A", "B", "C"), None, rng.choice([1, 0, -1, 9], (200_000, 3)).astype(np.int8), "")
    rows, wanted = np.sort(rng.integers(0, 200_000, 150_000)), targets(labels, uncertain)
    values = np.array(wanted)[rows]
    assert values.dtype == np.float32 and np.array_equal(wanted[rows], values, equal_nan=True)
    positives, negatives = counts(wanted, rows)
    assert positives.tolist() == (values == 1).sum(axis=0).tolist()
    assert negatives.tolist() == (values == 0).sum(axis=0).tolist()
    assert (any_positive(wanted, rows, [2, 0]) == (values[:, [2, 0]] == 1).any(axis=1)).all()


def test_an_unknown_choice_is_named():
    with pytest.raises(
        UserError, match="uncertain 'maybe': choose one of negative, positive, ignore, ignore-all, smooth"
    ):
        targets(LABELS, "maybe")
    with pytest.raises(UserError, match="uncertain 'E': no such finding; the labels have A, B, C, D"):
        targets(LABELS, "negative; E=ignore")


def test_a_split_without_labels_is_refused_but_a_blank_finding_is_not():
    values = np.array([[9, 9], [9, 9], [1, 9]], dtype=np.int8)
    labels = Labels("hand", ("A", "B"), np.array(["dev", "dev", "train"]), values, "")
    with pytest.raises(UserError, match="labels 'hand' have no findings for dev"):
        check_labelled(labels, np.array([0, 1]), "dev")
    check_labelled(labels, np.array([0, 1, 2]), "all")


def several(values: list[list[int]], stop: int) -> Labels:
    """Of packs a, rows before `stop`, and b."""
    packs = (
        PackLabels("a", "hand", "", ("A", "B"), (0, 1), 0, stop),
        PackLabels("b", "hand", "", ("B", "C"), (1, 2), stop, len(values)),
    )
    return Labels("hand", ("A", "B", "C"), None, np.array(values, dtype=np.int8), "", packs)


@pytest.mark.parametrize("uncertain", ["negative", "positive", "ignore", "ignore-all", "negative; A=positive"])
def test_what_a_pack_does_not_know_is_ignored_under_every_policy(uncertain):
    labels = several([[1, 0, 8], [0, 1, 8], [8, 1, 1], [8, 0, 0]], 2)
    wanted = targets(labels, uncertain)
    nan = np.nan
    np.testing.assert_array_equal(wanted, [[1, 0, nan], [0, 1, nan], [nan, 1, 1], [nan, 0, 0]])
    positives, negatives = counts(wanted, np.array([0, 1, 2, 3, 3]))
    assert positives.tolist() == [1, 2, 1] and negatives.tolist() == [1, 3, 2]


def test_a_pack_without_labels_is_not_hidden_by_another():
    labels = several([[1, 0, 8], [8, 9, 9]], 1)
    with pytest.raises(UserError, match="b: labels 'hand' have no findings for the training split"):
        check_labelled(labels, np.array([0, 1]), "the training split")
    check_labelled(labels, np.array([0]), "the training split")
