"""Training, predicting and scoring images of one view alone."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from cxrdali import predictions
from cxrdali.data.options import FoldOptions
from cxrdali.data.splits import fold_positives, train_and_validation
from cxrdali.evaluate.evaluate import evaluate
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict, split_rows
from cxrdali.runs.reader import Run
from cxrdali.runs.seen import seen_by
from cxrdali.runs.settings import TrainSettings, settings_of
from cxrdali.train.trainer import train
from shards.dataset.union import Union
from shards.errors import UserError
from tests.heard import heard

SMALL = {
    "stage": 1, "size": 48, "batch": 8, "epochs": 1, "arch": "test_byobnet", "pretrained": False, "device": "cpu",
    "folds": 3, "labels": "cxr-lt-2023",
}  # fmt: skip


@pytest.fixture(scope="module")
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A run of frontal images, and what it said."""
    out, said = tmp_path_factory.mktemp("views") / "frontal", []
    with heard(said):
        train(settings_of(**SMALL, view="frontal"), dataset, out)
    return Run.open(out), said


@pytest.mark.parametrize("view", ["frontal", "lateral"])
@pytest.mark.parametrize("stratify", [False, True])
def test_a_view_leaves_the_folds_as_they_are(dataset, labels, view, stratify):
    views = dataset.catalog["view"].to_numpy()
    assert set(views) == {"frontal", "lateral", "other"}
    for fold in range(3):
        options = FoldOptions(fold, 3, stratify=stratify)
        found = train_and_validation(dataset, labels, replace(options, view=view))
        for rows, every in zip(found, train_and_validation(dataset, labels, options), strict=True):
            assert rows.tolist() == [row for row in every if views[row] == view] != []


def test_positives_of_folds_are_those_of_the_view(dataset, labels):
    options = FoldOptions(0, 3, stratify=True, view="frontal")
    table = pd.DataFrame(labels.values == 1, columns=labels.findings)
    by_fold = [
        table.iloc[train_and_validation(dataset, labels, replace(options, fold=fold))[1]].sum() for fold in range(3)
    ]
    found = fold_positives(dataset, labels, options)
    assert found == {name: [each[name] for each in by_fold] for name in found}
    assert set(found) == {name for name in table if sum(each[name] for each in by_fold)}


def test_a_pack_without_the_view_is_named(dataset, nih):
    union = Union.of({"mimic": dataset, "nih": nih})
    assert len(train_and_validation(union, union.labels(), FoldOptions(view="frontal"))[0])
    with pytest.raises(UserError, match="nih: no lateral image to train on in the training split .*--view"):
        train_and_validation(union, union.labels(), FoldOptions(view="lateral"))


def test_a_run_of_before_is_of_all_views():
    stored = settings_of(stage=1).as_json()
    del stored["data"]["view"]
    assert TrainSettings.from_json(stored).data.view == "all"
    assert settings_of(stage=1, view="frontal").difference(stored) == ("view", "all", "frontal")


@pytest.mark.slow
def test_a_run_trains_and_validates_on_its_view_and_says_what_it_left_out(dataset, labels, trained):
    run, said = trained
    views = dataset.catalog["view"]
    train_rows, val_rows = train_and_validation(dataset, labels, FoldOptions(folds=3))
    frontal = [[row for row in rows if views[row] == "frontal"] for rows in (train_rows, val_rows)]
    assert (run.selection["train_images"], run.selection["val_images"]) == tuple(map(len, frontal))
    assert run.train_positives == dict(zip(labels.findings, (labels.values[frontal[0]] == 1).sum(axis=0), strict=True))
    table = predictions.read(run.val_predictions)
    assert table.ids["image_id"].tolist() == dataset.catalog["image_id"].iloc[frontal[1]].tolist()
    counts = views.iloc[[*train_rows, *val_rows]].value_counts()
    line = next(line for line in said if line.startswith("view frontal: "))
    for name, words in (("frontal", "frontal"), ("lateral", "lateral"), ("other", "of another or no known view")):
        assert f"{counts[name]:,} {words}" in line
    assert any("frontal images alone" in line for line in said if "to validate (fold" in line)
    assert seen_by(run, dataset).runs[0].split.view == "frontal"


@pytest.mark.slow
def test_predictions_of_other_views_say_so(dataset, labels, trained):
    run, _ = trained
    views = dataset.catalog["view"].to_numpy()
    own = split_rows(run, dataset, labels, "val")
    every = train_and_validation(dataset, labels, FoldOptions(folds=3))[1]
    assert own.tolist() == [row for row in every if views[row] == "frontal"]
    for view, keep in (("all", every), ("lateral", [row for row in every if views[row] == "lateral"])):
        said = []
        with heard(said):
            table = predict(run.path, dataset, "val", PredictOptions(view=view, device="cpu"))
        assert table.ids["image_id"].tolist() == dataset.catalog["image_id"].iloc[keep].tolist()
        others = sum(views[row] != "frontal" for row in keep)
        words = f"{others} of {len(keep)} images are not frontal, and frontal was trained on frontal ones alone"
        assert table.provenance.history == (words,) and f"note: {words}" in said
    same = predict(run.path, dataset, "val", PredictOptions(view="frontal", device="cpu"))
    np.testing.assert_array_equal(same.values, predictions.read(run.val_predictions).values)
    assert same.provenance.history == ()
    test = predict(run.path, dataset, "test", PredictOptions(device="cpu"))
    assert "not frontal" in test.provenance.history[0] and set(test.ids["view"]) > {"frontal"}
    assert seen_by(run, dataset).among(dataset, labels, every, "subject", "validation images") == ()
    train_rows = split_rows(run, dataset, labels, "train", "lateral")
    words = seen_by(run, dataset).among(dataset, labels, train_rows, "subject", "images")
    subjects, frontal = dataset.catalog["subject_id"], split_rows(run, dataset, labels, "train")
    known = int(subjects[train_rows].isin(subjects[frontal]).sum())
    assert 0 < known < len(train_rows)
    assert words[0].startswith(f"{known} of {len(train_rows)} images are other images of patients")


@pytest.mark.slow
def test_a_score_is_of_the_view_alone(dataset, labels, trained, tmp_path):
    run, _ = trained
    path = tmp_path / "all.parquet"
    predict(run.path, dataset, "val", PredictOptions(view="all", device="cpu")).write(path)
    options = EvaluateOptions(draws=0, view="lateral")
    found = json.loads(json.dumps(evaluate(path, dataset, labels, options)))
    table = predictions.read(path)
    keep = (table.ids["view"] == "lateral").to_numpy()
    truth = labels.values[split_rows(run, dataset, labels, "val", "lateral")] == 1
    scored = truth.any(axis=0) & ~truth.all(axis=0)
    means = np.mean([average_precision_score(truth[:, f], table.values[keep, f]) for f in np.flatnonzero(scored)])
    assert found["all"]["mAP"] == pytest.approx(means) and found["frontal"] is None
    assert found["images"] == keep.sum() and found["all"] | {"lateral": 0} == found["lateral"] | {"lateral": 0}
    assert f"lateral images alone, {keep.sum()} of {len(keep)}" in found["history"]
    with pytest.raises(UserError, match="no frontal image among its .*--view"):
        part = predictions.of_view(table, path, dataset, "lateral")
        part.write(tmp_path / "lateral.parquet")
        evaluate(tmp_path / "lateral.parquet", dataset, labels, replace(options, view="frontal"))


# ---------------------------------------------------------------- which view chooses the best epoch


def of_view_by_hand(table, dataset, labels, view):
    """mAP over the images of a view, by scikit-learn."""
    keep = (table.ids["view"] == view).to_numpy()
    rows = pd.Index(dataset.catalog["image_id"]).get_indexer(table.ids["image_id"])[keep]
    truth = labels.values[rows] == 1
    scored = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    return np.mean([average_precision_score(truth[:, f], table.values[keep, f]) for f in scored])


@pytest.mark.slow
@pytest.mark.parametrize("averages", [{}, {"ema": 0.5}])
def test_the_frontal_images_choose_the_best_epoch_of_a_run_on_all(dataset, labels, tmp_path, averages):
    train(settings_of(**{**SMALL, "epochs": 4}, select_view="frontal", **averages), dataset, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.chosen_by == run.progress.metric == "frontal_mAP"
    reached = run.metrics[["frontal_mAP", *(["ema_frontal_mAP"] if averages else [])]].max(axis=1)
    assert run.progress.best_epoch == reached.argmax() + 1 == run.best["epoch"]
    assert run.progress.best_score == pytest.approx(reached.max())
    table = predictions.read(run.val_predictions)
    assert set(table.ids["view"]) == {"frontal", "lateral", "other"}, "all of them are predicted"
    assert run.best["frontal_mAP"] == pytest.approx(of_view_by_hand(table, dataset, labels, "frontal"))
    assert run.selection["train_images"] == len(train_and_validation(dataset, labels, FoldOptions(folds=3))[0])


@pytest.mark.slow
def test_a_view_of_a_pack_chooses(dataset, nih, tmp_path):
    union = Union.of({"mimic": dataset, "nih": nih})
    given = {**SMALL, "labels": None, "epochs": 2, "select_view": "frontal"}
    train(settings_of(**given), union, tmp_path / "mean")
    table = Run.open(tmp_path / "mean").metrics
    mean = (table["frontal_mAP_mimic"] + table["frontal_mAP_nih"]) / 2
    np.testing.assert_allclose(table["frontal_mean_mAP"], mean)
    np.testing.assert_allclose(table["frontal_mAP_nih"], table["mAP_nih"])  # all of its images are frontal
    assert Run.open(tmp_path / "mean").chosen_by == "frontal_mean_mAP"
    train(settings_of(**given, select_pack="mimic", select_by="lrap"), union, tmp_path / "one")
    assert Run.open(tmp_path / "one").chosen_by == Run.open(tmp_path / "one").progress.metric == "frontal_LRAP_mimic"


def test_a_view_that_cannot_choose_is_refused(dataset, nih, tmp_path):
    with pytest.raises(UserError, match="select-view lateral: no such image validates with --view frontal"):
        settings_of(stage=1, view="frontal", select_view="lateral")
    with pytest.raises(UserError, match="select-view 'lateral': no finding has both .* among the 0 lateral of"):
        train(settings_of(**{**SMALL, "labels": None}, select_view="lateral"), nih, tmp_path / "run")
