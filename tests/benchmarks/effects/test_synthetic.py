"""The benchmark of the synthetic release at a tiny size: what its rows say, and what detectability means."""

import numpy as np
import pytest

from benchmarks.effects.synthetic import FEW, SIZES, detectability, group, groups, table
from benchmarks.results import RESULTS, newest
from shards.synthetic.facts import FREQUENCIES
from tests.benchmarks.test_benchmarks import ROOT, check_environment, run

FINE = {"Fracture", "Calcification of the Aorta", "Fibrosis", "Pneumomediastinum", "Pneumothorax"}
BROAD = {"Lung Opacity", "Cardiomegaly", "Pleural Effusion", "Pneumonia", "Mass", "Hernia", "Emphysema"}


def test_fine_findings_need_pixels_and_broad_ones_do_not():
    rows = {row["finding"]: row for row in detectability(5, ("frontal",))}
    assert set(rows) == set(FREQUENCIES) - {"No Finding"}
    assert all(rows[finding]["needs_pixels"] for finding in FINE)
    assert not any(rows[finding]["needs_pixels"] for finding in BROAD)
    for row in rows.values():
        assert (np.diff(row["detectability"]) > -0.15 * row["detectability"][-1]).all(), row
        assert row["kept_at_224"] == pytest.approx(row["detectability"][1] / row["detectability"][-1], rel=0.02)


def test_groups_are_means_of_head_middle_and_tail():
    assert [group(finding) for finding in ("Support Devices", "Fracture", "Fibrosis")] == ["head", "middle", "tail"]
    common = {"mix": "paper", "size": 64, "images": 1, "test_images": 1, "prevalence": 0.5, "auroc": 0.5}
    rows = [{"finding": name, "ap": ap, **common} for name, ap in (("Edema", 0.4), ("Fracture", 0.2), ("Nodule", None))]
    found = {row["group"]: (row["findings"], row["mean_ap"]) for row in groups(rows)}
    assert found == {"head": (1, 0.4), "middle": (1, 0.2), "all": (2, pytest.approx(0.3))}


def test_synthetic_benchmark(tmp_path):
    tiny = ("--patients", "1", "--drawn", "2", "--studies", "90", "--few-studies", "90", "--epochs", "1")
    rows, printed = run("synthetic", tmp_path, *tiny, "--size", "32", "--few-sizes", "32,64")

    check_environment(rows, "synthetic")
    drawn = [row for row in rows if "drawing" in row]
    assert [row["drawing"] for row in drawn] == [512, "native"]
    assert 1_400_000 < drawn[1]["bytes_per_image"] < 1_800_000 and drawn[0]["cpu_seconds_per_1000"] > 0
    seen = [row for row in rows if "detectability" in row]
    assert [row["view"] for row in seen] == ["frontal"] * 25 + ["lateral"] * 25
    assert all(len(row["contrast"]) == len(row["detectability"]) == len(SIZES) for row in seen)
    learnt = [row for row in rows if "ap" in row]
    assert [row["finding"] for row in learnt[:26]] == list(FREQUENCIES)
    assert [(row["mix"], row["size"]) for row in learnt] == [("paper", 32)] * 26 + [("few", 32)] * 8 + [("few", 64)] * 8
    for row in learnt:
        assert row["prevalence"] == pytest.approx(row["positives"] / row["test_images"])
        assert (row["ap"] is None) == (row["positives"] == 0) and (row["ap"] is None or 0 < row["ap"] <= 1)
    assert {row["group"] for row in rows if "group" in row} >= {"head", "middle", "all"}
    assert "needs pixels" in printed and "paper, 32 px" in printed
    lines = table(newest(tmp_path / "synthetic.jsonl")).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:28]] == list(FREQUENCIES)
    assert len(lines) == 28 + 3 + len({row["group"] for row in rows if "group" in row}) + 3 + len(FEW)


def test_the_page_shows_the_committed_rows():
    page = (ROOT / "docs" / "synthetic.md").read_text()
    assert table(newest(RESULTS / "synthetic.jsonl")) in page
