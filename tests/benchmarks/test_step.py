"""The benchmarks of the training step and of what surrounds it at a tiny size: what their rows say."""

import pytest

from tests.benchmarks.test_benchmarks import check_environment, run


def test_step_benchmark(tmp_path):
    tiny = ("--stages", "32:4", "--arch", "test_efficientnet", "--studies", "12", "--rounds", "2", "--seconds", "0.1")
    rows, printed = run("step", tmp_path, *tiny, "--variants", "nchw,fp16")
    check_environment(rows, "step")
    rates = {row["contender"]: row["images_per_second"] for row in rows if "contender" in row}
    measured = {name: rate["median"] for name, rate in rates.items() if rate}
    assert {"ours, cached", "ours, loader", "timm, cached", "timm, loader", "ours, NCHW"} <= set(measured)
    assert all(rate > 0 for rate in measured.values())
    waiting = {row["contender"]: row["waiting_share"] for row in rows if row.get("waiting_share")}
    assert all(0 <= share["low"] <= share["high"] < 1 for share in waiting.values())
    assert waiting["ours, cached"]["median"] < 0.2  # they are there already
    reasons = [row["not_measured"] for row in rows if "contender" in row and "not_measured" in row]
    assert "fp16 needs a GPU" in reasons
    ratios = {(row["ours"], row["theirs"]): row for row in rows if row.get("ratio")}
    real = ratios["ours, loader", "ours, cached"]
    assert real["ratio"] == pytest.approx(measured["ours, loader"] / measured["ours, cached"])
    assert real["at_least"] == ratios["ours, cached", "timm, cached"]["at_least"] == 0.98
    assert all(row["size"] == 32 and row["batch"] == 4 and row["device"] == "cpu" for row in rows)
    assert "small network" in rows[0]["scale"] and ("PASS" in printed or "MISS" in printed)


def test_overhead_benchmark(tmp_path):
    tiny = ("--arch", "test_efficientnet", "--stages", "64:8", "--findings", "3", "--validated", "40")
    rows, printed = run("overhead", tmp_path, *tiny, "--trained", "400", "--rounds", "1")
    check_environment(rows, "overhead")
    seconds = {row["part"]: row["seconds"]["median"] for row in rows if "part" in row}
    assert set(seconds) == {"metrics", "checkpoint", "logging", "every step"} and min(seconds.values()) > 0
    (share,) = [row for row in rows if "share" in row]
    steps = next(row["times"] for row in rows if row.get("part") == "every step")
    once = sum(value for name, value in seconds.items() if name != "every step")
    assert share["spent_seconds"] == pytest.approx(once + seconds["every step"] * 50 / steps)
    assert share["share"] == pytest.approx(share["spent_seconds"] / share["epoch_seconds"])
    assert share["met"] == (share["share"] <= 0.02) and "derived" in share["epoch"]
    assert "derived: " in printed
