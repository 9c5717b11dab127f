"""Which findings a run scores: those with a positive and a negative among its validation images, and no others."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrdali.data.options import FoldOptions
from cxrdali.data.splits import train_and_validation
from cxrdali.data.targets import targets
from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.evaluate import evaluate
from cxrdali.evaluate.options import CompareOptions, EvaluateOptions
from cxrdali.predictions import read
from cxrdali.report.training.page import ReportOptions, write_report
from cxrdali.runs.layout import CONFIG, VAL_PREDICTIONS
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.trainer import train
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from tests.heard import heard

SMALL = {"stage": 1, "size": 48, "batch": 8, "arch": "test_efficientnet", "pretrained": False, "device": "cpu",
         "epochs": 1, "warmup_epochs": 0}  # fmt: skip


def relabelled(monkeypatch, dataset, change):
    """dataset, whose labels `change` has edited: int8 [rows, F] by finding."""
    labels = dataset.labels("cxr-lt-2023")
    values = labels.values.copy()
    change({name: values[:, place] for place, name in enumerate(labels.findings)})
    monkeypatch.setattr(PackedDataset, "labels", lambda self, name=None: dataclasses.replace(labels, values=values))
    return dataset.labels()


def blank_negatives(column):
    column[column == 0] = Labels.BLANK


def trained(dataset, out, **changes):
    said = []
    with heard(said):
        train(settings_of(**{**SMALL, **changes}), dataset, out)
    return said


@pytest.mark.slow
def test_a_finding_without_a_negative_is_named_and_in_no_mean(dataset, tmp_path, monkeypatch):
    """Mass is 1 or blank, as No Finding is in MIMIC's own labels; Hernia has no positive anywhere."""
    labels = relabelled(monkeypatch, dataset, lambda columns: blank_negatives(columns["Mass"]))
    policy = "negative; Mass=ignore-all"
    said = {name: trained(dataset, tmp_path / name, uncertain=policy, seed=len(name)) for name in ("a", "bb")}["a"]
    left_out = "no positive in validation: Hernia; no negative in validation: Mass"
    assert f"not in mAP, {left_out}" in said[: next(i for i, line in enumerate(said) if line.startswith("epoch"))]
    _, val = train_and_validation(dataset, labels, FoldOptions())
    truth, values = targets(labels, policy)[val], read(tmp_path / "a" / VAL_PREDICTIONS).values
    counted = [place for place, name in enumerate(labels.findings) if name not in ("Hernia", "Mass")]
    mean, auroc = (
        np.mean([measure(truth[:, place], values[:, place]) for place in counted])
        for measure in (average_precision_score, roc_auc_score)
    )
    (epoch,) = [line for line in said if line.startswith("epoch")]
    assert f"mAP {mean:.4f} of 3 findings, " in epoch and f"AUROC {auroc:.4f}; " in epoch
    run = Run.open(tmp_path / "a")
    assert run.best["mAP"] == pytest.approx(mean) and np.isnan(run.best_ap["Mass"])
    assert run.settings.data.uncertain == policy

    found = evaluate(tmp_path / "a" / VAL_PREDICTIONS, dataset, labels, EvaluateOptions(draws=30, uncertain=policy))
    whole, place = found["all"], labels.findings.index("Mass")
    assert (whole["without_positives"], whole["without_negatives"]) == (["Hernia"], ["Mass"])
    assert (whole["mAP"], whole["macro_AUROC"]) == (pytest.approx(mean), pytest.approx(auroc))
    assert [whole["findings"][place][name] for name in ("AP", "AP_low", "AUROC", "negatives")] == [None] * 3 + [0]
    (group,) = [means for means in whole["groups"].values() if "Mass" in means["findings"]]
    others = [row["AP"] for row in whole["findings"] if row["finding"] in group["findings"] and row["AP"] is not None]
    assert group["mAP"] == (pytest.approx(np.mean(others)) if others else None)

    compared = compare([tmp_path / "a", tmp_path / "bb"], dataset, CompareOptions(draws=0, folds=2))
    assert (compared["uncertain"], compared["without_negatives"]) == (policy, ["Mass"])
    assert compared["runs"][0]["mAP"] == pytest.approx(mean) and set(compared["findings"][place]["AP"].values()) == {
        None
    }
    page = write_report(tmp_path / "r.html", [tmp_path / "a"], options=ReportOptions("r")).read_text()
    assert "Without a negative validation image, so without AP and left out of mAP: Mass." in page
    assert retrain_settings(tmp_path / "a", dataset, {}).data.uncertain == policy


def test_few_scored_findings_are_a_warning_and_one_class_in_training_is_said(dataset, tmp_path, monkeypatch):
    rows, val = train_and_validation(dataset, dataset.labels("cxr-lt-2023"), FoldOptions())

    def change(columns):
        for name in ("Mass", "No Finding"):
            columns[name][val] = 1
        columns["Edema"][rows], columns["Edema"][val[:2]], columns["Edema"][val[2:]] = 1, 0, 1

    relabelled(monkeypatch, dataset, change)
    said = trained(dataset, tmp_path / "run")
    warning = "warning: mAP is of 2 of 5 findings alone; not in mAP, no positive in validation: Hernia; "
    assert f"{warning}no negative in validation: Mass, No Finding" in said
    assert "counted in mAP, but in every training image whose label counts: Edema" in said


def one_class(columns):
    for column in columns.values():
        blank_negatives(column)


@pytest.mark.parametrize("changes, fix", [
    ({"uncertain": "ignore-all"}, "give another --uncertain: ignore makes it 4 findings"),
    ({"uncertain": "ignore-all", "fold": 1, "select_by": "lrap"}, "give another --uncertain: ignore makes it "),
])  # fmt: skip
def test_a_run_without_a_scored_finding_is_stopped_before_its_first_step(dataset, tmp_path, monkeypatch, changes, fix):
    relabelled(monkeypatch, dataset, one_class)
    with pytest.raises(UserError) as error:
        trained(dataset, tmp_path / "run", **changes)
    text = str(error.value)
    assert text.startswith("labels 'cxr-lt-2023': no finding has both a positive and a negative among the ")
    assert f"(fold {changes.get('fold', 0)} of 5, --uncertain 'ignore-all')" in text and fix in text
    assert "(no positive: Hernia; no negative: Edema, Mass, No Finding, Pneumonia)" in text
    assert not (tmp_path / "run" / CONFIG).exists()


def test_a_limit_or_a_fold_that_leaves_no_finding_is_named(dataset, tmp_path, monkeypatch):
    labels = dataset.labels("cxr-lt-2023")
    _, val = train_and_validation(dataset, labels, FoldOptions())

    def change(columns):
        for column in columns.values():
            column[val] = 1

    relabelled(monkeypatch, dataset, change)
    with pytest.raises(UserError, match="; give another --fold: fold 1 has [45] findings with both$"):
        trained(dataset, tmp_path / "run")
    monkeypatch.undo()

    def first_batch(columns):
        for column in columns.values():
            column[val[:8]] = 1

    relabelled(monkeypatch, dataset, first_batch)
    with pytest.raises(
        UserError, match="8 validation images.*; give more --limit-batches, or none: the whole fold has 5"
    ):
        trained(dataset, tmp_path / "run", limit_batches=1)
    monkeypatch.undo()
    relabelled(monkeypatch, dataset, lambda columns: [column.fill(1) for column in columns.values()])
    with pytest.raises(UserError, match="; give other --labels, or a dataset with more labelled images$"):
        trained(dataset, tmp_path / "run")


def test_a_run_keeps_the_policy_and_not_the_file(dataset, tmp_path, monkeypatch):
    file, out = tmp_path / "policy.toml", tmp_path / "run"
    file.write_text('[findings]\nMass = "positive"\nEdema = "ignore"\n')
    trained(dataset, out, uncertain=str(file))
    stored = json.loads((out / CONFIG).read_text())
    assert stored["settings"]["data"]["uncertain"] == "negative; Edema=ignore; Mass=positive" and stored["format"] == 2
    assert str(file) not in (out / CONFIG).read_text().replace(str(stored["command"]), "")
    trained(dataset, out, uncertain="negative;Mass=positive; Edema=ignore")  # is finished: the same run
    file.write_text('[findings]\nMass = "positive"\n')
    with pytest.raises(
        UserError, match="another uncertain: 'negative; Edema=ignore; Mass=positive' there, 'negative; Mas"
    ):
        trained(dataset, out, uncertain=str(file))
    with pytest.raises(UserError, match="uncertain 'Mas': no such finding; did you mean Mass"):
        trained(dataset, tmp_path / "other", uncertain="negative; Mas=ignore")
