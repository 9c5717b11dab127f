"""Predictions and labels of other findings: those in common are scored, and what is left out is said."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

from cxrdali.evaluate.evaluate import EvaluateOptions, evaluate, write
from cxrdali.metrics.longtail import groups
from cxrdali.postprocess import thresholds
from cxrdali.predictions import Predictions, Provenance
from cxrdali.provenance import Home
from shards.dataset.labels import Labels
from shards.dataset.union import Union
from tests.heard import heard

MODEL = ("Hernia", "Scoliosis", "pulmonary edema", "Mass")  # the labels have Hernia, Edema and Mass
OPTIONS = EvaluateOptions(draws=40)


@pytest.fixture(scope="module")
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


@pytest.fixture(scope="module")
def table(dataset, labels):
    rows = np.flatnonzero(labels.split == "train")
    ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]]
    values = np.random.default_rng(0).normal(size=(len(rows), 4)).astype(np.float32)
    return Predictions(ids, MODEL, values, Provenance("logit", "m", "test", labels.name))


def of_some(labels, names, called=None):
    places = [labels.findings.index(name) for name in names]
    return replace(labels, findings=tuple(called or names), values=labels.values[:, places])


def test_scores_are_those_of_the_common_findings_alone(dataset, labels, table, tmp_path):
    table.write(tmp_path / "p.parquet")
    lines = []
    with heard(lines):
        found = evaluate(tmp_path / "p.parquet", dataset, labels, OPTIONS)
    table.of(["Hernia", "pulmonary edema", "Mass"]).write(tmp_path / "p.parquet")
    same = of_some(labels, ("Hernia", "Edema", "Mass"), ("Hernia", "pulmonary edema", "Mass"))
    alone = evaluate(tmp_path / "p.parquet", dataset, same, OPTIONS)
    assert "common" not in alone and found.pop("common") == {
        "same": {"Hernia": "Hernia", "pulmonary edema": "Edema", "Mass": "Mass"},
        "only_predictions": ("Scoliosis",), "only_labels": ("No Finding", "Pneumonia"),
        "words": ("Edema: 'pulmonary edema' of p.parquet, 'Edema' of cxr-lt-2023",),
    }  # fmt: skip
    assert found == alone and [row["finding"] for row in found["all"]["findings"]] == [*same.findings]
    assert lines == [
        "findings in common with the labels, which alone count: Hernia, pulmonary edema, Mass",
        "taken as one finding: Edema: 'pulmonary edema' of p.parquet, 'Edema' of cxr-lt-2023",
        "left out, unknown to the labels: Scoliosis",
        "left out, unknown to the predictions: No Finding, Pneumonia",
    ]


def test_a_map_says_what_is_the_same(dataset, labels, table, tmp_path):
    table.write(tmp_path / "p.parquet")
    (tmp_path / "map.toml").write_text('"Scoliosis" = "Pneumonia"\n"pulmonary edema" = "pulmonary edema"\n')
    found = evaluate(tmp_path / "p.parquet", dataset, labels, replace(OPTIONS, findings=str(tmp_path / "map.toml")))
    assert found["common"]["same"] == {"Hernia": "Hernia", "Scoliosis": "Pneumonia", "Mass": "Mass"}
    assert found["common"]["only_predictions"] == ("pulmonary edema",)


def test_json_and_csv_list_what_is_left_out(dataset, labels, table, tmp_path):
    table.write(tmp_path / "p.parquet")
    result = evaluate(tmp_path / "p.parquet", dataset, labels, OPTIONS)
    json_path, csv_path = write(result, tmp_path / "p.metrics")
    assert json.loads(json_path.read_bytes())["common"]["only_labels"] == ["No Finding", "Pneumonia"]
    rows = list(csv.DictReader(csv_path.open()))
    assert {row["finding"]: row["in_labels"] for row in rows if row["AP"] and row["finding"]} == {
        "pulmonary edema": "Edema", "Mass": "Mass",
    }  # fmt: skip
    assert [(row["finding"], row["group"], row["AP"]) for row in rows[-3:]] == [
        ("Scoliosis", "left out, only predictions", ""),
        ("No Finding", "left out, only labels", ""),
        ("Pneumonia", "left out, only labels", ""),
    ]
    table.of(["Hernia", "Mass"]).write(tmp_path / "q.parquet")
    _, plain = write(
        evaluate(tmp_path / "q.parquet", dataset, of_some(labels, ("Hernia", "Mass")), OPTIONS), tmp_path / "q"
    )
    assert "in_labels" not in plain.read_text() and "left out" not in plain.read_text()


def test_groups_are_by_the_images_that_the_run_was_trained_on(dataset, labels, table, tmp_path):
    home = Home(1000, (("Mass", 9), ("Hernia", 200), ("Scoliosis", 50), ("pulmonary edema", 0)))
    replace(table, provenance=replace(table.provenance, home=home)).write(tmp_path / "p.csv")
    found = evaluate(tmp_path / "p.csv", dataset, labels, OPTIONS)
    assert found["groups"]["home"] == "m" and found["groups"]["train_images"] == 1000
    assert found["groups"]["train_positives"] == {"Hernia": 200, "pulmonary edema": 0, "Mass": 9}
    by_finding = {row["finding"]: row["group"] for row in found["all"]["findings"]}
    assert by_finding == dict(zip(("Hernia", "pulmonary edema", "Mass"), groups([200, 0, 9], 1000), strict=True))
    assert found["without_training"] == ["pulmonary edema"]
    here = evaluate(tmp_path / "p.csv", dataset, labels, OPTIONS)["groups"]
    table.write(tmp_path / "p.csv")
    assert here != evaluate(tmp_path / "p.csv", dataset, labels, OPTIONS)["groups"]


def test_unknown_labels_count_neither_way(dataset, labels, table, tmp_path):
    """A pack among several whose release does not know Mass: as if its images were not there, for Mass."""
    table.of(["Hernia", "Mass"]).write(tmp_path / "p.parquet")
    some, half = of_some(labels, ("Hernia", "Mass")), len(labels.values) // 2
    unknown = some.values.copy()
    unknown[:half, 1] = Labels.UNKNOWN
    found = evaluate(tmp_path / "p.parquet", dataset, replace(some, values=unknown), OPTIONS)["all"]["findings"][1]
    kept = table.ids.index >= half
    part = Predictions(table.ids[kept], table.findings, table.values[kept], table.provenance).of(["Hernia", "Mass"])
    part.write(tmp_path / "q.parquet")
    alone = evaluate(tmp_path / "q.parquet", dataset, some, OPTIONS)["all"]["findings"][1]
    for name in ("positives", "negatives", "prevalence", "AP", "AUROC", "ECE"):
        assert found[name] == alone[name]


def test_thresholds_of_fewer_findings_judge_these(dataset, labels, table, tmp_path):
    table.write(tmp_path / "p.parquet")
    found = evaluate(tmp_path / "p.parquet", dataset, labels, OPTIONS, thresholds.fixed(("Mass", "Hernia", "Other")))
    half = evaluate(tmp_path / "p.parquet", dataset, labels, OPTIONS, thresholds.fixed(MODEL))
    by_name = [{row["finding"]: row for row in each["all"]["findings"]} for each in (found, half)]
    names = ("F1", "recall", "specificity", "F1_low", "threshold")
    assert [by_name[0]["Mass"][name] for name in names] == [by_name[1]["Mass"][name] for name in names]
    assert [by_name[0]["pulmonary edema"][name] for name in names] == [None] * 5
    assert by_name[0]["pulmonary edema"]["AP"] == by_name[1]["pulmonary edema"]["AP"] is not None
    assert found["all"]["macro_recall"] == by_name[0]["Mass"]["recall"]  # Hernia has no positive
    assert found["thresholds"]["remarks"] == [
        "unknown to the thresholds, so without F1 and all else of them: pulmonary edema"
    ]


def test_several_packs_are_scored_as_one(dataset, nih, tmp_path):
    """A finding that a pack does not know counts in no score of its images, LRAP included."""
    both = Union.of({"mimic": dataset, "nih": nih})
    labels = both.labels()
    rows = np.flatnonzero(~np.array([each is None for each in labels.split[:]]))
    values = np.random.default_rng(3).normal(size=(len(rows), len(labels.findings))).astype(np.float32)
    ids = both.of_rows(rows, "image_id", "study_id", "view")
    Predictions(ids, labels.findings, values, Provenance("logit", "m", "test", labels.name)).write(tmp_path / "p.csv")
    found = evaluate(tmp_path / "p.csv", both, labels, OPTIONS)["all"]
    stored = labels.values[rows]
    of_image = [
        label_ranking_average_precision_score([row[row != Labels.UNKNOWN] == 1], [value[row != Labels.UNKNOWN]])
        for row, value in zip(stored, values, strict=True)
    ]
    assert found["LRAP"] == pytest.approx(np.mean(of_image))
    for place, row in enumerate(found["findings"]):
        known = stored[:, place] != Labels.UNKNOWN
        assert row["positives"] + row["negatives"] == known.sum()
        if row["AP"] is not None:
            wanted = average_precision_score(stored[known, place] == 1, values[known, place])
            assert row["AP"] == pytest.approx(wanted)
