"""The shipped study of learning rates at larger batches: its rules, and that its page says what was measured."""

from pathlib import Path

import pytest

from cxrdali.runs import recipes
from cxrdali.studies.expand import expand
from cxrdali.studies.reader import read_study
from cxrdali.studies.shipped import names
from shards.storage.sealed import read_json

ROOT = Path(__file__).parents[3]
RULES = {"constant": 0, "sqrt": 0.5, "linear": 1}


def test_rates_grow_by_their_rule_and_nothing_else_changes():
    runs = expand(read_study(names()["lr-batch"]), recipes.load(None))
    small = runs["batch64-seed0"].recipe.settings
    for batch in (128, 256):
        for rule, power in RULES.items():
            for seed in range(4):
                settings = runs[f"batch{batch}-{rule}-seed{seed}"].recipe.settings
                assert settings["lr"] == pytest.approx(small["lr"] * (batch / 64) ** power, rel=1e-4)
                assert {**settings, "lr": 0, "seed": 0} == {**small, "batch": batch, "lr": 0, "seed": 0}


def test_the_page_has_the_measured_numbers():
    found = read_json(ROOT / "benchmarks" / "results" / "lr-batch.json")
    text = (ROOT / "docs" / "stage-training.md").read_text()
    on_test = {row["run"]: row for row in found["scores"] if (row["split"], row["metric"]) == ("test", "mAP")}
    against = {row["run"]: row for row in found["differences"] if (row["split"], row["metric"]) == ("test", "mAP")}
    assert len(on_test) == 7 and all(row["n"] == 4 for row in on_test.values()) and not found["missing"]

    def signed(value):
        return f"{value:+.3f}".replace("-", "−")

    for batch in (128, 256):
        cells = []
        for rule in RULES:
            row, less = (rows[f"batch{batch}-{rule}"] for rows in (on_test, against))
            assert less["against"] == "batch64"
            ends = f"({signed(less['low'])} to {signed(less['high'])})"
            cells.append(f"{row['mean']:.3f} ± {row['sd']:.3f}; {signed(less['mean'])} {ends}")
        assert f"| {batch} | {' | '.join(cells)} |" in text
    small = on_test["batch64"]
    assert f"batch 64 ({small['mean']:.3f} ± {small['sd']:.3f}, LR 1e-3)" in text
    for claim, end in zip(found["claims"], ("by 0.016, 0.002 to 0.030", "0.027, 0.011 to 0.043", None), strict=True):
        known = f"{claim['difference']:.3f}, {claim['low']:.3f} to {claim['high']:.3f}"
        assert claim["verdict"] == ("holds" if end else "not separable") and (end is None or end.endswith(known))
        assert known.replace("-", "−") in text.replace("\n", " ")
