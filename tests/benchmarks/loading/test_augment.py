"""The benchmark of augmentations: its rows."""

import json
import sys

import pytest

from benchmarks.loading import augment

pytestmark = pytest.mark.slow


def test_its_rows(monkeypatch, tmp_path):
    given = ["--size", "32", "--images", "24", "--seen", "16", "--batch", "4", "--rounds", "1", "--save", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["augment", *given])
    augment.main()
    rows = [json.loads(line) for line in (tmp_path / "augment.jsonl").read_text().splitlines()]
    names = [f"{kind}, {how}" for kind in ("JPEG", "raw") for how in ("as they are", "flips and cutout", "mild")]
    assert [row["baseline"] for row in rows[:6]] == names and all(row["images"] == 16 for row in rows[:6])
    assert {row["baseline"] for row in rows[6:-4]} >= {
        "affine, in memory",
        "clahe, in memory",
        "crop and affine, in memory",
    }
    assert [(row["ours"], row["at_least"]) for row in rows[-4:]] == [
        ("JPEG, mild", 0.6), ("raw, mild", 0.6), ("affine, in memory", 2), ("crop and affine, in memory", 2),
    ]  # fmt: skip
