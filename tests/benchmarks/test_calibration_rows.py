"""The benchmark of calibrations: a tiny run, and what the committed rows say of the number that isotonic needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxrdali.postprocess.calibration_maps import ENOUGH

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
METHODS = ["none", "temperature", "platt", "isotonic"]


def test_a_tiny_run_says_what_each_method_costs(tmp_path):
    arguments = ["--repeats", "2", "--positives", "30", "--prevalences", "0.05", "--save", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.statistics.calibration", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=200)
    rows = [json.loads(line) for line in (tmp_path / "calibration.jsonl").read_text().splitlines()]
    assert [row["logits"] for row in rows] == ["calibrated", "shifted", "stretched", "bent", "kinked"]
    for row in rows:
        assert row["images"] == 600 and row["positives"] == 30
        for score in ("log_loss_percent_above", "brier_percent_above"):
            assert list(row[score]) == METHODS and all(
                value > 0 for name, value in row[score].items() if name != "none"
            )
            assert row[score]["none"] == pytest.approx(0, abs=1e-6) or row["logits"] != "calibrated"


def test_isotonic_costs_little_from_the_number_it_needs_and_much_below():
    rows = [json.loads(line) for line in (ROOT / "benchmarks/results/calibration.jsonl").read_text().splitlines()]
    lost = {
        (row["logits"], row["prevalence"], row["positives"]): row["log_loss_percent_above"]
        for row in rows
        if row["environment"]["date"] == rows[-1]["environment"]["date"]
    }
    for (kind, _, positives), each in lost.items():
        assert positives < ENOUGH or each["isotonic"] < 1.5
        if positives >= 10 and kind in ("calibrated", "shifted", "stretched"):  # a line corrects these
            assert each["platt"] < each["isotonic"]
    assert all(lost["calibrated", share, 100]["isotonic"] > 1 for share in (0.002, 0.01, 0.05, 0.3))
    assert all(
        lost["bent", share, ENOUGH]["isotonic"] < lost["bent", share, ENOUGH]["platt"] for share in (0.01, 0.05, 0.3)
    )
