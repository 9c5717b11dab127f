"""Threads against demand: the arithmetic by hand, and a tiny run with a training step on the CPU."""

import json
import sys

from benchmarks.loading import demand
from benchmarks.loading.demand import HEADROOM, threads_needed
from benchmarks.pages.published import images_per_second
from tests.benchmarks.test_benchmarks import check_environment, check_rates, run


def test_the_fewest_threads_with_room_to_spare():
    supply = {1: 1000.0, 2: 1900.0, 4: 2000.0}
    assert threads_needed(500, supply, headroom=2) == 1
    assert threads_needed(501, supply, headroom=2) == 2
    assert threads_needed(1000, supply, headroom=2) == 4
    assert threads_needed(1001, supply, headroom=2) is None


def test_the_demand_of_a_published_gpu():
    """559.2 images/s at 288 pixels; by pixels 453 at 320 and 177 at 512."""
    assert images_per_second(288) == 559.2
    assert [round(images_per_second(size)) for size in (320, 512)] == [453, 177]


def test_demand_benchmark(tmp_path):
    tiny = ("--stages", "32:8", "--threads", "1,2", "--rounds", "2", "--seconds", "0.03", "--step-seconds", "0.03")
    rows, printed = run("demand", tmp_path, *tiny, "--studies", "12", "--step", "--arch", "test_byobnet")

    check_environment(rows, "demand")
    assert all((row["size"], row["batch"]) == (32, 8) for row in rows)
    supply = check_rates([row for row in rows if "contender" in row], rounds=2)
    combinations = [(feed, threads) for feed in ("cpu", "raw") for threads in (1, 2)]
    assert [(row["feed"], row["threads"]) for row in supply.values()] == combinations
    derived, measured = (row for row in rows if "demand" in row)
    assert derived["demand"] == "RTX 3090, derived" and derived["images_per_second"] == images_per_second(32)
    ceiling = measured["images_per_second"]["median"]
    assert measured["demand"] == "this machine's CPU" and measured["arch"] == "test_byobnet" and ceiling > 0
    beside = [row for row in rows if "beside" in row]
    assert [(row["feed"], row["threads"]) for row in beside] == combinations
    for row in beside:
        assert 0 < row["waiting_share"]["median"] < 1 and row["images_per_second"]["median"] < 1.5 * ceiling
        assert row["met"] == (row["waiting_share"]["median"] <= 0.01)
        assert row["slower_share"] > -0.5
    wanted = {"RTX 3090, derived": images_per_second(32), "this machine's CPU": ceiling}
    rules = [row for row in rows if "rule" in row]
    assert [(row["rule"], row["feed"]) for row in rules] == [(name, feed) for name in wanted for feed in ("cpu", "raw")]
    for rule in rules:
        own = [row for row in supply.values() if row["feed"] == rule["feed"]]
        rates = {row["threads"]: row["images_per_second"]["median"] for row in own}
        assert (rule["demanded"], rule["headroom"]) == (wanted[rule["rule"]], HEADROOM)
        assert rule["threads_needed"] == threads_needed(rule["demanded"], rates)
        assert rule["cores_busy"] == rule["demanded"] * own[0]["cpu_seconds_per_1000"] / 1000
    assert printed.count("PASS") + printed.count("MISS") == 4


def test_without_a_gpu_the_demand_is_not_measured(tmp_path, monkeypatch):
    tiny = ("--stages", "32:8", "--threads", "1", "--feeds", "cpu", "--rounds", "1", "--seconds", "0.02")
    monkeypatch.setattr(sys, "argv", ["demand", *tiny, "--studies", "6", "--save", str(tmp_path)])
    demand.main()
    rows = [json.loads(line) for line in (tmp_path / "demand.jsonl").read_text().splitlines()]
    (missing,) = [row for row in rows if "not_measured" in row]
    assert missing["not_measured"] == "no GPU" and missing["images_per_second"] is None
    assert not [row for row in rows if "beside" in row]
