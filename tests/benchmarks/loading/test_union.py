"""The benchmark of two packs in one loader: its ratio by hand, and its rows."""

import json
import sys

import numpy as np
import pytest

from benchmarks.loading import union

pytestmark = pytest.mark.slow


def test_the_ratio_is_that_of_the_times_of_both_halves():
    # 100 images at 50/s and 100 at 200/s take 2.5 s, 80 images/s; 40/s is half of it
    assert union.ratio([80, 80], [50, 50], [200, 200])["ratio"] == pytest.approx(1)
    ours = np.random.default_rng(0).permutation(np.arange(1.0, 16)) * 80
    found = union.ratio(ours.tolist(), [50] * 15, [200] * 15)
    assert [found[name] for name in ("ratio", "low", "high")] == pytest.approx([8, 4, 12])  # covers 96.5 %


def test_its_rows(monkeypatch, tmp_path):
    given = ["--images", "24", "--seen", "16", "--batch", "4", "--rounds", "2", "--save", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["union", *given])
    union.main()
    rows = [json.loads(line) for line in (tmp_path / "union.jsonl").read_text().splitlines()]
    names = ["JPEG", "raw", "JPEG of 320", "JPEG + JPEG", "JPEG + raw", "JPEG + JPEG of 320", "raw + JPEG of 320"]
    assert [row["baseline"] for row in rows[:7]] == names and all(row["images"] == 16 for row in rows[:7])
    assert [row["ours"] for row in rows[7:]] == names[3:] and all(row["low"] <= row["ratio"] for row in rows[7:])
