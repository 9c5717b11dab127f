import csv
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.special import expit
from scipy.stats import t
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from cxrdali.data.splits import subject_is
from cxrdali.evaluate import remarks
from cxrdali.evaluate.evaluate import PARTS, EvaluateOptions, evaluate, write
from cxrdali.metrics.calibration_error import ece
from cxrdali.metrics.longtail import GROUPS
from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.ensemble import ensemble
from cxrdali.predictions import Predictions, read
from shards.errors import UserError
from shards.storage.sealed import read_json
from tests.cxrdali import by_hand
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
                enough = min(row["positive_patients"], row["negative_patients"]) >= 10
                assert (row["AP_low"] is not None) == (row["AUROC_high"] is not None) == enough
                assert not enough or 0 <= row["AP_low"] < row["AP_high"] <= 1
                assert row["prevalence"] == pytest.approx(truth[:, place].mean())
        known = [row for row in result[part]["findings"] if row["positives"]]
        thin = sum(min(row["positive_patients"], row["negative_patients"]) < 10 for row in known)
        if 3 * thin > 2 * len(known):
            assert result[part]["mAP_low"] is None
        else:
            assert 0 < result[part]["mAP_low"] < result[part]["mAP_high"] < 1
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
    assert read_json(json_path) == json.loads(json.dumps(result))
    rows = list(csv.DictReader(csv_path.open()))
    findings = [row for row in rows if row["finding"]]
    assert len(findings) == 15 and {row["view"] for row in rows} == {"all", "frontal", "lateral"}
    assert rows[0]["finding"] == "Edema" and float(rows[0]["AP"]) == result["all"]["findings"][0]["AP"]
    means = {(row["view"], row["group"]): row for row in rows if not row["finding"]}
    assert list(means) == [(view, group) for view in PARTS for group in ("all", *GROUPS)]
    for (view, group), row in means.items():
        wanted = result[view] if group == "all" else result[view]["groups"][group]
        for column, name in (("AP", "mAP"), ("AUROC", "macro_AUROC"), ("ECE", "macro_ECE"), ("AP_low", "mAP_low")):
            assert row[column] == ("" if wanted[name] is None else str(wanted[name]))
        assert row["positives"] == row["threshold"] == row["F1"] == ""


def test_head_medium_and_tail_are_by_the_labels_own_training_split(dataset, labels, tmp_path):
    path, rows = tmp_path / "p.parquet", np.flatnonzero(labels.split == "test")
    predictions(dataset, rows).write(path)
    train = labels.values[(labels.split == "train") & dataset.packed] == 1
    result = evaluate(path, dataset, labels, EvaluateOptions(draws=40), thresholds.fixed(FINDINGS))
    about = result["groups"]
    assert about["train_images"] == len(train) and "head at least 10 %" in about["rule"]
    assert about["train_positives"] == dict(zip(FINDINGS, train.sum(axis=0).tolist(), strict=True))
    share = dict(zip(FINDINGS, train.mean(axis=0), strict=True))
    for part in (result["all"], result["frontal"], result["lateral"]):
        assert list(part["groups"]) == list(GROUPS)
        for name, found in part["groups"].items():
            mine = [row for row in part["findings"] if row["group"] == name]
            assert [row["finding"] for row in mine] == found["findings"]
            for row in mine:
                its = share[row["finding"]]
                assert name == ("head" if its >= 0.1 else "medium" if its >= 0.01 else "tail")
                assert row["train_positives"] == about["train_positives"][row["finding"]]
            for column, mean in (("AP", "mAP"), ("AUROC", "macro_AUROC"), ("F1", "macro_F1"), ("ECE", "macro_ECE")):
                known = [row[column] for row in mine if row[column] is not None]
                assert found[mean] == (pytest.approx(np.mean(known)) if known else None)
            aps = {row["finding"]: row["AP"] for row in mine if row["AP"] is not None}
            rest = {each: np.mean([value for name, value in aps.items() if name != each]) for each in aps}
            one = found["mAP_without_one"]
            assert (one is None) == (len(aps) < 2)
            if one:
                assert (one["low"], one["high"]) == pytest.approx((min(rest.values()), max(rest.values())))
                assert one["low_without"] == min(rest, key=rest.get) and one["high_without"] == max(rest, key=rest.get)


def test_a_group_of_all_findings_has_the_intervals_of_the_macro_mean(dataset, labels, tmp_path):
    path, rows = tmp_path / "p.parquet", np.flatnonzero(labels.split == "test")
    predictions(dataset, rows).write(path)
    frequent = dataclasses.replace(labels, values=np.where((labels.split == "train")[:, None], 1, labels.values))
    whole = evaluate(path, dataset, frequent, EvaluateOptions(draws=40))["all"]
    head = whole["groups"]["head"]
    assert head["findings"] == list(FINDINGS) and whole["groups"]["tail"]["findings"] == []
    assert {name: whole[name] for name in head if name != "findings"} == {
        name: value for name, value in head.items() if name != "findings"
    }
    assert {value for name, value in whole["groups"]["tail"].items() if name != "findings"} == {None}


def test_without_a_training_split_there_are_no_groups(dataset, labels, tmp_path):
    rows = np.flatnonzero(labels.split == "test")
    predictions(dataset, rows).write(tmp_path / "p.parquet")
    alone = np.array([each if each == "test" else None for each in labels.split], dtype=object)
    result = evaluate(
        tmp_path / "p.parquet", dataset, dataclasses.replace(labels, split=alone), EvaluateOptions(draws=0)
    )
    assert result["groups"] is None and result["all"]["groups"] is None
    assert result["all"]["findings"][0]["group"] is None
    _, csv_path = write(result, tmp_path / "p.metrics")
    assert [row["group"] for row in csv.DictReader(csv_path.open()) if not row["finding"]] == ["all"] * 3


def test_the_same_seed_gives_the_same_intervals(dataset, labels, tmp_path):
    predictions(dataset, np.flatnonzero(labels.split == "train")).write(tmp_path / "p.parquet")
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
    assert (
        "none of its findings is in labels 'cxr-lt-2023' (perhaps 'Hernias' and 'Hernia'); say with --findings MAP.toml"
    ) in message(predictions(dataset, rows, ["Hernias", "Scoliosis"]))
    assert "'Edema' and 'Pulmonary edema' of one pack would both be 'Edema'" in message(
        predictions(dataset, rows, ["Edema", "Pulmonary edema"])
    )


def test_patients_are_what_is_sampled(dataset, labels, tmp_path):
    """AP's interval on the scale of logits, and the mean's, by hand; the table's rows are in any order."""
    rows = np.flatnonzero(labels.split == "train")
    table = predictions(dataset, rows)
    order = np.random.default_rng(2).permutation(len(rows))
    Predictions(table.ids.iloc[order], table.findings, table.values[order]).write(tmp_path / "p.parquet")
    result = evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=40, seed=3))
    found, truth = result["all"], (labels.values[rows] == 1).astype(float)
    subjects = dataset.catalog["subject_id"].iloc[rows].to_numpy()
    assert (result["unit"], result["patients"], found["patients"]) == ("patient", *[len(set(subjects))] * 2)
    assert found["studies"] == dataset.catalog["study_id"].iloc[rows].nunique() > found["patients"]
    samples = by_hand.sampled(truth, [table.values], subjects, 40, 3, by_hand.less_half)[:, 0]
    counts = by_hand.patients(truth, subjects)
    known = [f for f in range(len(FINDINGS)) if truth[:, f].any()]
    statistic = {f: by_hand.less_half(truth[:, f], table.values[:, f]) for f in known}
    for f in known:
        row = found["findings"][f]
        assert row["positive_patients"] == len(set(subjects[truth[:, f] == 1]))
        assert min(row["positive_patients"], row["negative_patients"]) == counts[f]
        if counts[f] >= 10:
            mine = samples[:, f][~np.isnan(samples[:, f])]
            centre = 2 * statistic[f] - mine.mean()
            spread = np.sqrt(mine.var() * counts[f] / (counts[f] - 1))
            half = t.ppf(0.975, counts[f] - 1) * spread / (centre * (1 - centre))
            wanted = expit(np.log(centre / (1 - centre)) + np.array([-half, half]))
            assert (row["AP_low"], row["AP_high"]) == pytest.approx(tuple(wanted))
    assert max(counts) >= 10
    low, high, _ = by_hand.of_mean(np.array([statistic[f] for f in known]), samples[:, known], counts[known])
    assert (found["mAP_low"], found["mAP_high"]) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("subject", "study", "unit"),
    [("ppqq", "1234", "patient"), ("1122", "1122", "study"), ("abcd", "abcd", "image"), ("p1cd", "11cd", "patient")],
)
def test_without_patients_the_study_or_image_is_sampled_and_it_is_said(subject, study, unit):
    """The last: patients are known of some images."""
    table = pd.DataFrame({"subject_id": list(subject), "study_id": list(study), "image_id": list("abcd")})
    assert subject_is(SimpleNamespace(arrow=lambda *names: pa.table(table[[*names]]))) == unit
    plural = {"patient": "patients", "study": "studies, as no patients are known"} | {
        "image": "images, as no patients are known"
    }
    result = {"unit": unit, "level": 0.9, "draws": 1000, "studies": 7, "patients": 3}
    assert remarks.resampled(result) == f"90 % intervals: 1,000 samples of the {plural[unit]}"
    assert remarks.sampled_from(result) == "7 studies" + (" of 3 patients" if unit == "patient" else "")


def test_what_is_off_the_centre_of_its_interval_is_named():
    ends = {"AP_low": 0.2, "AP_high": 0.4}
    rows = [{"finding": name, "AP": ap, **ends} for name, ap in (("a", 0.3), ("b", 0.39), ("c", 0.45), ("d", 0.21))]
    rows += [{"finding": "e", "AP": 0.9, "AP_low": None, "AP_high": None}]
    part = {"findings": rows, "mAP": 0.41, "mAP_low": 0.3, "mAP_high": 0.4}
    part["groups"] = {"tail": {"mAP": 0.2, "mAP_low": 0.1, "mAP_high": 0.19}, "head": {"mAP": None}}
    assert remarks.off_centre_in(part) == ["mAP", "mAP of tail findings", "b", "c", "d"]
    assert not remarks.off_centre(1.0, 0.8, 1.0)


def test_one_patient_has_scores_and_no_interval(dataset, labels, tmp_path):
    subjects = dataset.catalog["subject_id"].to_numpy()
    positive = (labels.values == 1).any(axis=1) & (labels.split == "train")
    rows = np.flatnonzero(subjects == subjects[positive][0])
    predictions(dataset, rows).write(tmp_path / "p.parquet")
    part = evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=20))["all"]
    assert part["patients"] == 1 and part["mAP"] is not None and part["mAP_low"] is None
    assert all(
        row["AP_low"] is row["AUROC_low"] is row["ECE_low"] is row["Brier_low"] is None for row in part["findings"]
    )


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
    split = np.array(labels.split)
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
    assert result["fitted_here"] == []
    own = scored(tmp_path / "val.parquet", dataset, labels, limits)
    assert own["fitted_here"] == ["best epoch", "thresholds"] and own["thresholds"]["remarks"] == []


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
    fitted = calibration.fit(tmp_path / "val.parquet", dataset, labels, "platt")
    calibration.apply(tmp_path / "val.parquet", fitted).write(tmp_path / "c.parquet")
    with pytest.raises(UserError, match="c.parquet: its logits are calibrated: platt, fitted on val.parquet, those of"):
        scored(tmp_path / "c.parquet", dataset, labels, limits)
    written(tmp_path / "n.parquet", dataset, "test", "test", run="n")
    with pytest.raises(UserError, match="n.parquet: run 'n' here, 'm' in val.parquet, .*--allow-other-run"):
        scored(tmp_path / "n.parquet", dataset, labels, limits)
    allowed = EvaluateOptions(draws=0, allow_other_run=True)
    assert evaluate(tmp_path / "n.parquet", dataset, labels, allowed, limits)["thresholds"]["remarks"] == [
        "run 'n' here, 'm' in val.parquet, to which the rules were fitted"
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
