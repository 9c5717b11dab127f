"""What each part costs and is worth: the arms that are measured, rows by hand, and the page has the committed ones."""

import json

import pytest

from benchmarks.pages import parts, readme
from benchmarks.training.parts import arms

WHERE = {"date": "d", "commit": "0123456789ab", "cpu": "a CPU", "cores": 2, "gpu": None, "command": "it"}


def row(part, seconds, ratio, more):
    about = {"arch": "net", "size": 96, "batch": 16, "runs": [seconds], "peak_mib": 500 + more, "more_mib": more}
    return {"part": part, "step_seconds": seconds, "ratio": ratio, **about, "environment": WHERE}


def scored(run, mean, **more):
    return {"run": run, "split": "test", "metric": "mAP", "mean": mean, "sd": 0.01, "n": 4, **more}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.results.RESULTS", tmp_path)
    return tmp_path


def test_the_table_has_cost_and_worth_of_each_part(results):
    assert parts.section() == "Not measured yet.\n"
    rows = [row("plain", 0.2, 1.0, 0), row("ema", 0.9, 4.5, 9), row("ema", 0.22, 1.1, 9), row("gem", 0.2, 1.0, -1)]
    (results / "parts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    differences = [
        {"run": "ema", "split": "test", "metric": "mAP", "mean": 0.05, "low": 0.01, "high": 0.09, "p_holm": 0.034},
        {"run": "ema", "split": "test", "metric": "AUROC", "mean": 9, "low": 9, "high": 9, "p_holm": 1},
        {"run": "mild", "split": "test", "metric": "mAP", "mean": -0.02, "low": -0.03, "high": -0.01, "p_holm": None},
    ]
    scores = [scored("plain", 0.25), scored("ema", 0.3), scored("mild", 0.23)]
    (results / "parts.json").write_text(json.dumps({"scores": scores, "differences": differences}))
    large = [{"run": "gem", "split": "test", "metric": "mAP", "mean": 0.03, "low": -0.01, "high": 0.07, "p_holm": 0.2}]
    scores = [scored("plain", 0.35), scored("gem", 0.38)]
    (results / "parts-large.json").write_text(json.dumps({"scores": scores, "differences": large}))
    text = parts.section()
    assert "| plain | 1.00 x | +0 |  |  |  |  |" in text
    ema = "| ema | 1.10 x | +9 | +0.050 (+0.010 to +0.090) | 0.034 | not measured | not measured |"
    assert ema in text, "the newest row counts"
    assert "| mild | not measured | not measured | -0.020 (-0.030 to -0.010) |  | not measured |" in text
    assert "| gem | 1.00 x | -1 | not measured | not measured | +0.030 (-0.010 to +0.070) | 0.2 |" in text
    assert "above zero: ema. Lower with one below zero: mild." in text and "0.250 ± 0.010, 4 seeds" in text
    assert "**20,000 studies**" in text and "above zero: none. Lower with one below zero: none." in text
    assert "plain: 0.200 s a step, 500 MiB" in text and "commit 012345678" in text


def test_the_page_has_the_committed_rows():
    text = readme.RECIPES.read_text()
    assert readme.written(text, parts.section(), "parts") == text


def test_every_arm_of_the_study_but_the_schedule_is_measured():
    found = arms()
    assert next(iter(found)) == "plain" and "sizes" not in found and {"ema", "csra", "db", "mild"} <= found.keys()
    assert all("seed" in settings for settings in found.values())
