"""Every benchmark at a tiny size, as a user runs it: what its rows say, and that it writes where it was told to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.baselines import Pass, lean_loader
from benchmarks.results import Spread, Target
from cxrdali.augment import AugmentOptions
from cxrdali.loader import Loader, LoaderOptions
from cxrdali.order import global_order
from shards.packed import MappedSize

ROOT = Path(__file__).parents[2]


def run(module: str, out: Path, *arguments: str) -> tuple[list[dict], str]:
    """The rows that a benchmark saved, and what it printed."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--save", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = (out / f"{module}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], done.stdout


def check_rates(rows: list[dict], rounds: int) -> dict[str, dict]:
    rates = {row["contender"]: row for row in rows if "images_per_second" in row}
    for name, row in rates.items():
        spread = row["images_per_second"]
        assert 0 < spread["low"] <= spread["median"] <= spread["high"], name
        assert len(row["runs"]) == rounds, name
        assert row["cpu_seconds_per_1000"] > 0, name
    return rates


def check_ratios(rows: list[dict], rates: dict[str, dict]) -> dict[str, dict]:
    ratios = [row for row in rows if "ratio" in row]
    for row in ratios:
        ours, theirs = (rates[row[side]]["images_per_second"]["median"] for side in ("ours", "theirs"))
        assert row["ratio"] == pytest.approx(ours / theirs)
        assert row["met"] == (row["ratio"] >= row["at_least"])
    return {f"{row['ours']} / {row['theirs']}": row for row in ratios}


def check_environment(rows: list[dict], module: str) -> None:
    for row in rows:
        found = row["environment"]
        assert row["benchmark"] == module
        assert found["command"].startswith(f"python -m benchmarks.{module} ")
        assert found["cpu"] and found["cores"] >= 1 and found["date"]
        assert found["gpu"] is None
        assert {"python", "torch", "numpy", "simplejpeg"} <= set(found["versions"])


def test_loader_benchmark(tmp_path):
    """One stage of 224 pixels in batches of 8, so that every promise of that stage has a verdict."""
    pytest.importorskip("albumentations")
    sizes = ("--stages", "224:8", "--images", "24", "--native-images", "2", "--epoch-rows", "3000")
    rows, printed = run("loader", tmp_path, *sizes, "--rounds", "2", "--seconds", "0.05")

    check_environment(rows, "loader")
    rates = check_rates(rows, rounds=2)
    words = ("decode only", "JPEG", "raw", "best-effort", "best-effort", "paper, resized", "paper, native")
    assert [next(word for word in words if name.startswith(word)) for name in rates] == list(words)
    assert all((row["size"], row["batch"]) == (224, 8) for row in rows)
    assert [row["at_least"] for row in rows if "ratio" in row] == [0.7, 7, 100, 1, 4]
    ratios = check_ratios(rows, rates)
    verdicts = [line for line in printed.splitlines() if line.endswith(("PASS", "MISS")) and " / " in line]
    assert [line.split("   ")[0].strip() for line in verdicts] == list(ratios)
    start = rows[-1]
    assert start["epoch_rows"] == 3000
    assert 0 < start["seconds"]["median"] < 60
    assert start["met"] == (start["seconds"]["median"] < start["at_most"])


def test_pack_benchmark(tmp_path):
    rows, printed = run("pack", tmp_path, "--images", "3", "--jobs", "2", "--rounds", "1", "--seconds", "0.1")

    check_environment(rows, "pack")
    rates = check_rates(rows, rounds=1)
    whole = rates["whole packing, 2 jobs"]
    assert whole["images"] == whole["files"] >= 3
    assert whole["per_core"] == pytest.approx(whole["images_per_second"]["median"] / 2)
    assert whole["peak_mib"] > 30
    found = check_ratios(rows, rates)
    assert [row["at_least"] for row in found.values()] == [2, 2]
    assert "whole packing, 2 jobs / whole full decode, 2 jobs" in found
    assert printed.count("PASS") + printed.count("MISS") == 2


def test_a_benchmark_saves_nothing_unless_asked():
    def saved() -> dict[Path, int]:
        return {path: path.stat().st_size for path in (ROOT / "benchmarks").rglob("*.jsonl")}

    before = saved()
    command = [sys.executable, "-m", "benchmarks.pack", "--images", "1", "--rounds", "1", "--seconds", "0.05"]
    done = subprocess.run([*command, "--jobs", "1"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert saved() == before


def test_the_best_effort_loader_hands_over_our_pixels(dataset, tmp_path):
    """Both are compared on the same work only if the same batches come out."""
    mapped = MappedSize(dataset.stored(64))
    rows = dataset.packed.nonzero()[0]
    files = [tmp_path / f"{row}.jpg" for row in range(len(dataset.packed))]
    for row in rows:
        files[row].write_bytes(mapped[row])
    order = global_order(rows[: len(rows) // 8 * 8], 0, 0).tolist()
    batches = tuple(tuple(order[start : start + 8]) for start in range(0, len(order), 8))
    theirs = lean_loader(Pass(tuple(files), batches), 64, 1, AugmentOptions())
    options = LoaderOptions(size=64, batch=8, threads=1)
    ours = Loader(dataset, rows[: len(order)], options, shuffle=True, augment=AugmentOptions(), drop_last=True)
    for expected, found in zip(ours, theirs, strict=True):
        assert torch.equal(found.rows, expected.rows)
        assert torch.equal(found.images, expected.images)


def test_target_counts_the_fastest_of_theirs():
    rates = {"ours": 30.0, "slow": 5.0, "fast": 10.0}
    found = Target("ours", ("slow", "fast"), 4).check(rates)
    assert (found["theirs"], found["ratio"], found["met"]) == ("fast", 3.0, False)
    assert Target("ours", ("slow",), 6).check(rates)["met"] is True
    assert Target("ours", ("slow",), None).check(rates)["met"] is None


def test_spread():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0)
