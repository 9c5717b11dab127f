import csv
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrdali.evaluate import EvaluateOptions, evaluate, write
from cxrdali.predictions import Predictions
from shards.errors import DataError
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
    result = evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=50), progress=False)
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
    one = evaluate(tmp_path / "one.parquet", dataset, labels, options, progress=False)
    two = evaluate(tmp_path / "two.csv", dataset, labels, options, progress=False)
    for left, right in zip(one["all"]["findings"], two["all"]["findings"], strict=True):
        assert left["finding"] == right["finding"]
        assert left["AP"] == (right["AP"] if right["AP"] is None else pytest.approx(right["AP"]))


def test_results_are_written_as_json_and_csv(dataset, labels, tmp_path):
    predictions(dataset, np.flatnonzero(labels.split == "test")).write(tmp_path / "p.parquet")
    result = evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=20), progress=False)
    json_path, csv_path = write(result, tmp_path / "p.metrics")
    assert json.loads(json_path.read_text()) == json.loads(json.dumps(result))
    rows = list(csv.DictReader(csv_path.open()))
    assert len(rows) == 15 and {row["view"] for row in rows} == {"all", "frontal", "lateral"}
    assert rows[0]["finding"] == "Edema" and float(rows[0]["AP"]) == result["all"]["findings"][0]["AP"]


def test_the_same_seed_gives_the_same_intervals(dataset, labels, tmp_path):
    predictions(dataset, np.flatnonzero(labels.split == "test")).write(tmp_path / "p.parquet")
    runs = [
        evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=30, seed=seed), progress=False)["all"]
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] and runs[0]["mAP_low"] != runs[2]["mAP_low"]


def test_what_does_not_belong_together_is_named(dataset, labels, tmp_path):
    rows = np.flatnonzero(labels.split == "test")
    path = tmp_path / "p.parquet"

    def message(table):
        table.write(path)
        with pytest.raises(DataError) as caught:
            evaluate(path, dataset, labels, EvaluateOptions(draws=0), progress=False)
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
    from cxrdali.bootstrap import resample

    rows = np.flatnonzero(labels.split == "train")
    table = predictions(dataset, rows)
    table.write(tmp_path / "p.parquet")
    found = evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=40), progress=False)["all"]
    study = np.unique(dataset.catalog["study_id"].iloc[rows].to_numpy(), return_inverse=True)[1]
    codes = np.unique(study, return_index=True)[1].argsort().argsort()[study]  # numbered by first appearance
    draws = resample(labels.values[rows].astype(float), table.values, codes, 40, 0)
    low, _ = draws.interval(draws.ap, 0.95)
    assert [row["AP_low"] for row in found["findings"]][0] == pytest.approx(low[0])


def test_a_split_without_labels_is_refused(dataset, labels, tmp_path):
    import dataclasses

    rows = np.flatnonzero(labels.split == "test")
    predictions(dataset, rows).write(tmp_path / "p.parquet")
    blank = dataclasses.replace(
        labels, values=np.where(labels.split[:, None] == "test", 9, labels.values).astype(np.int8)
    )
    with pytest.raises(DataError, match="have no findings for .*p.parquet"):
        evaluate(tmp_path / "p.parquet", dataset, blank, EvaluateOptions(draws=0), progress=False)


def test_images_that_the_labels_do_not_list_are_named(dataset, labels, tmp_path):
    import dataclasses

    rows = np.flatnonzero(labels.split == "test")
    predictions(dataset, rows).write(tmp_path / "p.parquet")
    split = labels.split.copy()
    split[rows[:3]] = None
    with pytest.raises(DataError, match=r"\(and 2 more\) is not in labels 'cxr-lt-2023'"):
        evaluate(tmp_path / "p.parquet", dataset, dataclasses.replace(labels, split=split), EvaluateOptions(draws=0))


def test_bad_options_are_named():
    with pytest.raises(DataError, match="draws -1: 0 or more"):
        EvaluateOptions(draws=-1)
    with pytest.raises(DataError, match="level 95: between 0 and 1"):
        EvaluateOptions(level=95)
