"""What older versions wrote: an AP of 1.0 for a finding without a negative, and `ignore` for what `ignore-all` is."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from cxrdali.report.training.folder import read_evaluation
from cxrdali.runs import folder
from cxrdali.runs.layout import CONFIG, FINDINGS, LAST, METRIC_COLUMNS, METRICS, PROGRESS
from cxrdali.runs.oversampling import choose, read_ap
from cxrdali.runs.progress import Progress
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from shards.errors import UserError
from shards.storage.sealed import sealed_json

NAMES = ("Edema", "No Finding", "Mass")
AP = {1: (0.3, 1.0, 0.5), 2: (0.2, 0.9999999999999999, 0.8), 3: (0.1, 1.0, 0.6)}  # No Finding: 1 or blank
MEANS = {1: 0.4, 2: 0.5, 3: 0.35}


def tables():
    """Rows of metrics.csv and findings.csv."""
    metrics = [
        dict.fromkeys(METRIC_COLUMNS, 0.5) | {"epoch": epoch, "mAP": float(np.mean(ap))} for epoch, ap in AP.items()
    ]
    findings = [
        {"epoch": epoch, "finding": name, "AP": value, "AUROC": float("nan") if name == "No Finding" else 0.5,
         "positives": 9, "negatives": 0 if name == "No Finding" else 40}
        for epoch, ap in AP.items()
        for name, value in zip(NAMES, ap, strict=True)
    ]  # fmt: skip
    return metrics, findings


@pytest.fixture
def run(tmp_path):
    settings = settings_of(stage=1, epochs=3, uncertain="ignore").as_json()
    config = {"settings": settings, "findings": [*NAMES], "dataset": {"id": ""}, "labels": {"name": ""}}
    (tmp_path / CONFIG).write_bytes(sealed_json(config))
    for name, rows in zip((METRICS, FINDINGS), tables(), strict=True):
        pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
    (tmp_path / PROGRESS).write_bytes(sealed_json(asdict(Progress(3, 3, True, 2, float(np.mean(AP[2])), "mAP"))))
    return tmp_path


def test_ignore_was_what_ignore_all_is(run):
    assert Run.open(run).settings.data.uncertain == Run.open(run).setting("uncertain") == "ignore-all"
    config = json.loads((run / CONFIG).read_text())
    (run / CONFIG).write_bytes(sealed_json({**config, "format": 2}))
    assert Run.open(run).settings.data.uncertain == "ignore"
    config["settings"]["data"]["uncertain"] = "negative"
    (run / CONFIG).write_bytes(sealed_json(config))
    assert Run.open(run).settings.data.uncertain == "negative"


def test_an_ap_without_a_negative_is_in_no_mean_and_chooses_nothing(run):
    opened = Run.open(run)
    assert opened.metrics["mAP"].tolist() == pytest.approx([*MEANS.values()]) and opened.best["epoch"] == 2
    assert opened.metrics["LRAP"].tolist() == [0.5] * 3
    assert opened.best_findings["AP"].isna().tolist() == [False, True, False]
    assert choose(read_ap(run), 1.0) == (("Edema", "Mass"), ("No Finding",))


def test_a_run_goes_on_from_what_counts_today(run):
    metrics, findings = tables()
    state = {"epoch": 3, "best_epoch": 2, "best_score": metrics[1]["mAP"], "metrics": metrics, "findings": findings}
    torch.save(state, run / LAST)
    loaded = folder.load_last(run)
    assert loaded["best_score"] == pytest.approx(0.5)
    assert {row["epoch"]: row["mAP"] for row in loaded["metrics"]} == pytest.approx(MEANS)
    assert {row["finding"] for row in loaded["findings"] if row["AP"] != row["AP"]} == {"No Finding"}
    torch.save({**state, "best_score": 0.7}, run / LAST)  # LRAP: it stays
    assert folder.load_last(run)["best_score"] == 0.7
    torch.save({**state, "metrics": [], "findings": [], "best_epoch": 0, "best_score": float("-inf")}, run / LAST)
    assert folder.load_last(run)["best_score"] == float("-inf")


def test_an_evaluation_s_ap_without_a_negative_chooses_nothing(tmp_path):
    rows = [
        {"finding": name, "AP": ap, "negatives": 0 if ap == 1 else 40} for name, ap in zip(NAMES, AP[1], strict=True)
    ]
    (tmp_path / "e.json").write_bytes(sealed_json({"all": {"findings": rows}}))
    pd.DataFrame(rows).assign(view="all").to_csv(tmp_path / "e.csv", index=False)
    for name in ("e.json", "e.csv"):
        assert choose(read_ap(tmp_path / name), 1.0) == (("Edema", "Mass"), ("No Finding",))


def test_a_page_refuses_an_evaluation_that_counts_one(tmp_path):
    row = {"finding": "No Finding", "positives": 9, "negatives": 0, "prevalence": 1.0, "AP": 1.0, "AUROC": None}
    part = {"images": 9, "studies": 9, "LRAP": 1.0, "without_positives": [], "mAP": 1.0, "macro_AUROC": None}
    content = {"images": 9, "studies": 9, "labels": "mine", "all": {**part, "findings": [row]}}
    (tmp_path / "e.json").write_bytes(sealed_json(content))
    with pytest.raises(
        UserError, match="e.json: .*counts an AP of 'No Finding', of which no image is neg.*evaluate again"
    ):
        read_evaluation(tmp_path / "e.json")
    row["AP"] = None
    (tmp_path / "e.json").write_bytes(sealed_json(content))
    assert read_evaluation(tmp_path / "e.json").content["all"]["findings"][0]["AP"] is None
