import dataclasses

import numpy as np
import pytest

from cxrdali.fitted import sketch
from cxrdali.postprocess.crossfit import cross_fit, read_held_out
from cxrdali.postprocess.options import FitOptions
from cxrdali.postprocess.rules import differences, doubtful_split
from cxrdali.predictions import read
from shards.dataset.labels import Labels
from shards.errors import UserError
from tests.cxrdali.held_out import written
from tests.heard import heard
from tests.releases import FINDINGS


def held_out(path, dataset, labels, **options):
    return read_held_out(path, dataset, labels, FitOptions(**options))


def test_parts_never_share_a_subject_and_columns_are_the_labels_(dataset, labels, tmp_path):
    path = tmp_path / "val.parquet"
    rows, truth = written(path, dataset, findings=FINDINGS[::-1])
    data = held_out(path, dataset, labels)
    assert data.findings == FINDINGS and (data.truth == truth).all()
    assert (data.logits == read(path).values[:, ::-1]).all()
    subjects = dataset.catalog["subject_id"].iloc[rows].to_numpy()
    assert set(data.part) == set(range(5))
    for subject in set(subjects):
        assert len(set(data.part[subjects == subject])) == 1
    assert data.made_from == {
        "predictions": "val.parquet", "run": "m", "split": "val", "tta": "none", "calibrated": [],
        "seen": None, "hashes": sketch(read(path).ids),
        "labels": "cxr-lt-2023", "dataset": dataset.id, "uncertain": "negative", "images": len(rows), "folds": 5,
        "synthetic": False,
    }  # fmt: skip


def test_each_part_is_judged_by_a_fit_to_the_others(dataset, labels, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    data = held_out(tmp_path / "val.parquet", dataset, labels, folds=3)
    seen = []

    def fit(truth, logits):
        seen.append((truth, logits))
        return logits.sum(axis=0)

    result = cross_fit(data, fit, lambda sums, logits: logits - sums)
    for number in range(3):
        inside = data.part == number
        assert (seen[number][0] == data.truth[~inside]).all() and (seen[number][1] == data.logits[~inside]).all()
        assert (result[inside] == data.logits[inside] - data.logits[~inside].sum(axis=0)).all()


@pytest.mark.parametrize("split", ["train", "all"])
def test_images_that_were_trained_on_are_refused_unless_allowed(dataset, labels, tmp_path, split):
    written(tmp_path / "p.parquet", dataset, split)
    with pytest.raises(UserError, match=f"p.parquet: was predicted on split '{split}', whose images were trained on"):
        held_out(tmp_path / "p.parquet", dataset, labels)
    assert held_out(tmp_path / "p.parquet", dataset, labels, allow_leak=True).made_from["split"] == split


def test_of_another_dataset_all_images_may_be_unseen(dataset, labels, tmp_path):
    """And a validation table may hold seen ones, through the runs that its weights come from."""
    written(tmp_path / "p.parquet", dataset, "all", seen=())
    assert held_out(tmp_path / "p.parquet", dataset, labels).made_from["seen"] == []
    text = "3 of 9 validation images were trained on by stage1 (fold 0 of 5)"
    written(tmp_path / "p.parquet", dataset, seen=(text,))
    with pytest.raises(UserError) as error:
        held_out(tmp_path / "p.parquet", dataset, labels)
    advice = "they look better than any other; give a table of unseen images, or say --allow-leak"
    assert str(error.value) == f"{tmp_path / 'p.parquet'}: {text}: {advice}"
    made_from = held_out(tmp_path / "p.parquet", dataset, labels, allow_leak=True).made_from
    assert doubtful_split(made_from) == f"p.parquet: {text}: with rules fitted to them, scores flatter"


def test_a_csv_does_not_say_its_split(dataset, labels, tmp_path):
    written(tmp_path / "p.csv", dataset)
    made_from = held_out(tmp_path / "p.csv", dataset, labels).made_from
    assert "p.csv does not say which split it holds" in doubtful_split(made_from)
    assert doubtful_split({**made_from, "split": "val"}) == ""


@pytest.mark.parametrize("split", ["dev", "test"])
def test_rules_fitted_to_a_split_that_is_to_be_scored_are_warned_of(dataset, labels, tmp_path, split):
    written(tmp_path / "p.parquet", dataset, split)
    made_from = held_out(tmp_path / "p.parquet", dataset, labels).made_from
    assert f"p.parquet holds the {split} split: with rules fitted to it, its own scores flatter" in doubtful_split(
        made_from
    )


def test_what_predictions_and_labels_have_in_common_is_fitted_to_by_the_predictions_names(dataset, labels, tmp_path):
    """The labels call two findings otherwise, and know one that was not predicted."""
    path, lines = tmp_path / "p.parquet", []
    written(path, dataset, findings=FINDINGS[:4])
    whole = held_out(path, dataset, dataclasses.replace(labels, findings=FINDINGS[:4], values=labels.values[:, :4]))
    other = dataclasses.replace(labels, findings=("pulmonary edema", *FINDINGS[1:]))
    with heard(lines):
        data = held_out(path, dataset, other, uncertain="negative; pulmonary edema=ignore")
    assert data.findings == FINDINGS[:4]
    np.testing.assert_array_equal(data.truth, whole.truth)
    np.testing.assert_array_equal(data.logits, whole.logits)
    assert lines[0] == f"findings in common with the labels, which alone count: {', '.join(FINDINGS[:4])}"
    assert lines[1] == "taken as one finding: Edema: 'Edema' of p.parquet, 'pulmonary edema' of cxr-lt-2023"
    assert lines[2].startswith("taken as one finding: No Finding: one finding of p.parquet and cxr-lt-2023, though in")
    assert lines[3:] == [f"left out, unknown to the predictions: {FINDINGS[4]}"]


def test_what_nothing_can_be_fitted_to_is_named(dataset, labels, tmp_path):
    path = tmp_path / "p.parquet"
    written(path, dataset, kind="probability")
    with pytest.raises(UserError, match="holds probabilities, which saturate"):
        held_out(path, dataset, labels)
    other = dataclasses.replace(labels, findings=tuple(f"{name} (other)" for name in FINDINGS))
    written(path, dataset)
    with pytest.raises(UserError, match=r"none of its findings is in labels .*perhaps 'Edema' and 'Edema \(other\)'"):
        held_out(path, dataset, other)
    written(path, dataset)
    with pytest.raises(UserError, match="images of 18 subjects, 19 folds need at least as many; give more images or"):
        held_out(path, dataset, labels, folds=19)
    with pytest.raises(UserError, match="folds 1: at least 2"):
        held_out(path, dataset, labels, folds=1)
    blank = dataclasses.replace(labels, values=np.full_like(labels.values, Labels.BLANK))
    with pytest.raises(UserError, match="have no findings for .*p.parquet"):
        held_out(path, dataset, blank)


def test_another_run_or_tta_is_worth_a_note(dataset, labels, tmp_path):
    written(tmp_path / "p.parquet", dataset)
    made_from = held_out(tmp_path / "p.parquet", dataset, labels).made_from
    about = read(tmp_path / "p.parquet").provenance
    assert differences(about, made_from) == []
    other = dataclasses.replace(about, run="n", tta="hflip")
    assert differences(other, made_from) == [
        "run 'n' here, 'm' in p.parquet, to which the rules were fitted",
        "test-time augmentation 'hflip' here, 'none' in p.parquet, to which the rules were fitted",
    ]
    assert differences(dataclasses.replace(about, run=None, tta=None), made_from) == []
