import csv
import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from cxrdali.evaluate.evaluate import EvaluateOptions, evaluate, write
from cxrdali.metrics.calibration_error import ece
from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.ensemble import ensemble
from cxrdali.predictions import Predictions, read
from shards.errors import UserError
from tests.cxrdali.held_out import written
from tests.releases import FINDINGS


@pytest.fixture(scope="module")
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


def predictions(dataset, rows, findings=FINDINGS, seed=0):
    values = np.random.default_rng(seed).normal(size=(len(rows), len(findings))).astype(np.float32)
    ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]]
    return Predictions(ids, tuple(findings), values)


def test_metrics_are_scikit_learn_s_for_all_and_for_each_view(dataset, labels, tmp_path):
    rows = np.flatnonzero(labels.split == "train")
    table = predictions(dataset, rows)
    table.write(tmp_path / "p.parquet")
    result = evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=50))
    frontal = (dataset.catalog["view"].iloc[rows] == "frontal").to_numpy()
    for part, mask in (("all", slice(None)), ("frontal", frontal), ("lateral", ~frontal)):
        truth, values = labels.values[rows][mask], table.values[mask]
        assert result[part]["images"] == len(truth)
        for place, row in enumerate(result[part]["findings"]):
            assert row["finding"] == labels.findings[place]
            assert row["positives"] == truth[:, place].sum()
            if row["positives"]:
                assert row["AP"] == pytest.approx(average_precision_score(truth[:, place], values[:, place]))
                assert row["AUROC"] == pytest.approx(roc_auc_score(truth[:, place], values[:, place]))
                assert row["AP_low"] <= row["AP"] <= row["AP_high"]
                assert row["prevalence"] == pytest.approx(truth[:, place].mean())
        assert result[part]["mAP_low"] < result[part]["mAP"] < result[part]["mAP_high"]
    assert result["all"]["without_positives"] == ["Hernia"]
    hernia = result["all"]["findings"][labels.findings.index("Hernia")]
    assert hernia["AP"] is None and hernia["AP_low"] is None


def test_findings_are_matched_by_name_and_images_by_id(dataset, labels, tmp_path):
    rows = np.flatnonzero(labels.split == "test")
    table = predictions(dataset, rows)
    table.write(tmp_path / "one.parquet")
    shuffled, order = list(reversed(FINDINGS)), np.random.default_rng(1).permutation(len(rows))
    columns = [FINDINGS.index(name) for name in shuffled]
    other = Predictions(table.ids.iloc[order], tuple(shuffled), table.values[order][:, columns])
    other.write(tmp_path / "two.csv")
    options = EvaluateOptions(draws=0)
    one = evaluate(tmp_path / "one.parquet", dataset, labels, options)
    two = evaluate(tmp_path / "two.csv", dataset, labels, options)
    for left, right in zip(one["all"]["findings"], two["all"]["findings"], strict=True):
        assert left["finding"] == right["finding"]
        assert left["AP"] == (right["AP"] if right["AP"] is None else pytest.approx(right["AP"]))


def test_results_are_written_as_json_and_csv(dataset, labels, tmp_path):
    predictions(dataset, np.flatnonzero(labels.split == "test")).write(tmp_path / "p.parquet")
    result = evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=20))
    json_path, csv_path = write(result, tmp_path / "p.metrics")
    assert json.loads(json_path.read_text()) == json.loads(json.dumps(result))
    rows = list(csv.DictReader(csv_path.open()))
    assert len(rows) == 15 and {row["view"] for row in rows} == {"all", "frontal", "lateral"}
    assert rows[0]["finding"] == "Edema" and float(rows[0]["AP"]) == result["all"]["findings"][0]["AP"]


def test_the_same_seed_gives_the_same_intervals(dataset, labels, tmp_path):
    predictions(dataset, np.flatnonzero(labels.split == "test")).write(tmp_path / "p.parquet")
    runs = [
        evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=30, seed=seed))["all"]
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] and runs[0]["mAP_low"] != runs[2]["mAP_low"]


def test_what_does_not_belong_together_is_named(dataset, labels, tmp_path):
    rows = np.flatnonzero(labels.split == "test")
    path = tmp_path / "p.parquet"

    def message(table):
        table.write(path)
        with pytest.raises(UserError) as caught:
            evaluate(path, dataset, labels, EvaluateOptions(draws=0))
        return str(caught.value)

    table = predictions(dataset, rows)
    strange = Predictions(table.ids.assign(image_id=["?", *table.ids["image_id"][1:]]), table.findings, table.values)
    assert "image '?' is not in" in message(strange)
    assert "finding 'Hernia' is only in labels 'cxr-lt-2023'" in message(
        predictions(dataset, rows, [name for name in FINDINGS if name != "Hernia"])
    )
    assert "finding 'Scoliosis' is only in the predictions" in message(
        predictions(dataset, rows, [*FINDINGS, "Scoliosis"])
    )


def test_studies_are_what_the_bootstrap_draws(dataset, labels, tmp_path):
    """The intervals are those of `resample` on study codes, not on images."""
    from cxrdali.metrics.bootstrap import resample

    rows = np.flatnonzero(labels.split == "train")
    table = predictions(dataset, rows)
    table.write(tmp_path / "p.parquet")
    found = evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=40))["all"]
    study = np.unique(dataset.catalog["study_id"].iloc[rows].to_numpy(), return_inverse=True)[1]
    codes = np.unique(study, return_index=True)[1].argsort().argsort()[study]  # numbered by first appearance
    draws = resample(labels.values[rows].astype(float), table.values, codes, 40, 0)
    low, _ = draws.interval(draws.ap, 0.95)
    assert [row["AP_low"] for row in found["findings"]][0] == pytest.approx(low[0])


def test_a_split_without_labels_is_refused(dataset, labels, tmp_path):
    rows = np.flatnonzero(labels.split == "test")
    predictions(dataset, rows).write(tmp_path / "p.parquet")
    blank = dataclasses.replace(
        labels, values=np.where(labels.split[:, None] == "test", 9, labels.values).astype(np.int8)
    )
    with pytest.raises(UserError, match="have no findings for .*p.parquet"):
        evaluate(tmp_path / "p.parquet", dataset, blank, EvaluateOptions(draws=0))


def test_images_that_the_labels_do_not_list_are_named(dataset, labels, tmp_path):
    rows = np.flatnonzero(labels.split == "test")
    predictions(dataset, rows).write(tmp_path / "p.parquet")
    split = labels.split.copy()
    split[rows[:3]] = None
    with pytest.raises(UserError, match=r"\(and 2 more\) is not in labels 'cxr-lt-2023'"):
        evaluate(tmp_path / "p.parquet", dataset, dataclasses.replace(labels, split=split), EvaluateOptions(draws=0))


def test_bad_options_are_named():
    with pytest.raises(UserError, match="draws -1: 0 or more"):
        EvaluateOptions(draws=-1)
    with pytest.raises(UserError, match="level 95: between 0 and 1"):
        EvaluateOptions(level=95)


# ------------------------------------------------------------ probabilities and decisions


def scored(path, dataset, labels, limits=None):
    return evaluate(path, dataset, labels, EvaluateOptions(draws=0), thresholds=limits)


def test_ece_and_brier_are_there_for_all_and_for_each_view(dataset, labels, tmp_path):
    path = tmp_path / "p.parquet"
    rows, truth = written(path, dataset)
    result = scored(path, dataset, labels)
    probabilities = expit(read(path).values.astype(np.float64))
    frontal = (dataset.catalog["view"].iloc[rows] == "frontal").to_numpy()
    assert result["values"] == "logit" and result["thresholds"] is None
    for part, mask in (("all", slice(None)), ("frontal", frontal), ("lateral", ~frontal)):
        wanted = ece(truth[mask].astype(float), probabilities[mask])
        assert [row["ECE"] for row in result[part]["findings"]] == pytest.approx(wanted)
        assert result[part]["macro_ECE"] == pytest.approx(wanted.mean())
        for place, row in enumerate(result[part]["findings"]):
            if row["positives"]:
                assert row["Brier"] == pytest.approx(brier_score_loss(truth[mask, place], probabilities[mask, place]))
            assert row["F1"] is None and row["threshold"] is None
        assert "macro_F1" not in result[part]
        assert result[part]["macro_Brier"] == pytest.approx(np.mean([r["Brier"] for r in result[part]["findings"]]))


def test_decisions_are_scikit_learn_s(dataset, labels, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    rows, truth = written(tmp_path / "test.parquet", dataset, "test", "test", seed=3, findings=FINDINGS[::-1])
    limits = thresholds.fit(tmp_path / "val.parquet", dataset, labels, "f1")
    result = scored(tmp_path / "test.parquet", dataset, labels, limits)
    values = read(tmp_path / "test.parquet").values[:, ::-1]
    frontal = (dataset.catalog["view"].iloc[rows] == "frontal").to_numpy()
    for part, mask in (("all", slice(None)), ("lateral", ~frontal)):
        some = []
        for place, row in enumerate(result[part]["findings"]):
            rule = limits.rules[place]
            assert row["finding"] == rule.finding and row["threshold"] == rule.threshold
            if not row["positives"]:
                assert row["F1"] is None and row["recall"] is None and row["specificity"] == 1
                continue
            target, called = truth[mask, place], values[mask, place] >= rule.threshold
            some.append(f1_score(target, called))
            assert row["F1"] == pytest.approx(some[-1])
            assert row["precision"] == pytest.approx(precision_score(target, called))
            assert row["recall"] == pytest.approx(recall_score(target, called))
            assert row["specificity"] == pytest.approx(recall_score(1 - target, ~called))
        assert result[part]["macro_F1"] == pytest.approx(np.mean(some))
    assert result["thresholds"] == {
        "strategy": "f1", "predictions": "val.parquet", "run": "m", "split": "val", "without_threshold": ["Hernia"],
        "remarks": [],
    }  # fmt: skip
    own = scored(tmp_path / "val.parquet", dataset, labels, limits)
    assert own["thresholds"]["remarks"] == ["learnt from these images: F1 looks better than on others"]


def test_a_finding_that_is_never_called_counts_against_f1(dataset, labels, tmp_path):
    path = tmp_path / "p.parquet"
    written(path, dataset)
    limits = thresholds.fit(path, dataset, labels, "f1")
    without = dataclasses.replace(limits.rules[0], threshold=None)
    part = scored(path, dataset, labels, dataclasses.replace(limits, rules=(without, *limits.rules[1:])))["all"]
    edema = part["findings"][0]
    assert (edema["F1"], edema["recall"], edema["precision"], edema["specificity"]) == (0, 0, None, 1)
    assert part["macro_F1"] == pytest.approx(np.mean([0, *(row["F1"] for row in part["findings"][2:])]))


def test_one_threshold_for_all_and_a_table_of_probabilities(dataset, labels, tmp_path):
    path = tmp_path / "p.parquet"
    _, truth = written(path, dataset)
    logits = read(path)
    part = scored(path, dataset, labels, thresholds.fixed(FINDINGS))["all"]
    assert part["findings"][0]["F1"] == pytest.approx(f1_score(truth[:, 0], logits.values[:, 0] >= 0))
    logits.as_probabilities().write(tmp_path / "q.parquet")
    plain = scored(tmp_path / "q.parquet", dataset, labels)
    assert plain["values"] == "probability" and plain["all"]["macro_ECE"] == pytest.approx(part["macro_ECE"], abs=1e-6)
    with pytest.raises(UserError, match="q.parquet: holds probabilities, which saturate"):
        scored(tmp_path / "q.parquet", dataset, labels, thresholds.fixed(FINDINGS))
    logits.as_probabilities().write(tmp_path / "q.csv")  # does not say what it holds
    assert scored(tmp_path / "q.csv", dataset, labels)["values"] == "probability"
    logits.write(tmp_path / "l.csv")
    assert scored(tmp_path / "l.csv", dataset, labels)["values"] == "logit"
    written(path, dataset, kind="probability")  # of logits
    with pytest.raises(UserError, match="p.parquet: holds probabilities, but a value is outside 0..1; predict again"):
        scored(path, dataset, labels)


def test_thresholds_of_another_scale_or_run_are_named(dataset, labels, tmp_path):
    written(tmp_path / "val.parquet", dataset)
    limits = thresholds.fit(tmp_path / "val.parquet", dataset, labels, "f1")
    learnt = calibration.fit(tmp_path / "val.parquet", dataset, labels, "platt")
    calibration.apply(tmp_path / "val.parquet", learnt).write(tmp_path / "c.parquet")
    with pytest.raises(UserError, match="c.parquet: its logits are calibrated: platt, fitted on val.parquet, those of"):
        scored(tmp_path / "c.parquet", dataset, labels, limits)
    written(tmp_path / "n.parquet", dataset, "test", "test", run="n")
    assert scored(tmp_path / "n.parquet", dataset, labels, limits)["thresholds"]["remarks"] == [
        "run 'n' here, 'm' in val.parquet, from which the rules were learnt"
    ]


def test_the_table_of_findings_has_what_was_added(dataset, labels, tmp_path):
    path = tmp_path / "p.parquet"
    written(path, dataset)
    result = scored(path, dataset, labels, thresholds.fixed(FINDINGS))
    _, csv_path = write(result, tmp_path / "p.metrics")
    row = next(csv.DictReader(csv_path.open()))
    edema = result["all"]["findings"][0]
    for name in ("ECE", "Brier", "threshold", "F1", "precision", "recall", "specificity"):
        assert float(row[name]) == edema[name]


def test_a_rare_finding_that_a_draw_lacks_does_not_lift_the_interval_of_the_mean():
    """A common finding with AP 0.9 or so, and one in a single study, ranked last: its AP is 0.02, and a third of the
    draws do not have it. Means over what a draw has would then be near 0.9, twice the mean that is reported."""
    from cxrdali.evaluate.evaluate import _part

    rng = np.random.default_rng(0)
    common = (np.arange(50) < 25).astype(np.float32)
    truth = np.stack([common, (np.arange(50) == 49).astype(np.float32)], axis=1)
    values = np.stack([common + rng.normal(0, 0.5, 50), -np.arange(50.0)], axis=1).astype(np.float32)
    part = _part(("common", "rare"), truth, values, np.arange(50), EvaluateOptions(draws=300), lambda done: None)
    assert part["findings"][1]["AP"] == pytest.approx(1 / 50)
    assert part["mAP_low"] < part["mAP"] < part["mAP_high"] < 0.6
    assert part["findings"][0]["AP_low"] > 0.7


def test_mean_ranks_have_no_calibration_error_until_they_are_calibrated(dataset, labels, tmp_path):
    rows = np.flatnonzero(labels.split == "train")
    for seed in (0, 1):
        predictions(dataset, rows, seed=seed).write(tmp_path / f"{seed}.csv")
    members, ranked = [tmp_path / "0.csv", tmp_path / "1.csv"], tmp_path / "ranked.parquet"
    ensemble(members, method="rank").write(ranked)
    options = EvaluateOptions(draws=0)
    made = evaluate(ranked, dataset, labels, options)
    assert made["values"] == "rank" and made["all"]["mAP"] is not None
    assert (made["all"]["macro_ECE"], made["all"]["macro_Brier"], made["frontal"]["macro_ECE"]) == (None, None, None)
    assert all(row["ECE"] is None and row["Brier"] is None for row in made["all"]["findings"])
    calibration.apply(ranked, calibration.fit(ranked, dataset, labels, "platt")).write(tmp_path / "platt.parquet")
    made = evaluate(tmp_path / "platt.parquet", dataset, labels, options)
    assert made["values"] == "logit" and made["all"]["macro_ECE"] is not None
    ensemble(members).write(ranked)
    assert evaluate(ranked, dataset, labels, options)["all"]["macro_ECE"] is not None
