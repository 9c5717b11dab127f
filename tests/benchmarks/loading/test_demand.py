"""Threads against demand: the arithmetic by hand, and a tiny run."""

import json

import pytest

from benchmarks.loading import demand
from benchmarks.loading.demand import HEADROOM, DemandRun, threads_needed
from benchmarks.options import Stage
from benchmarks.pages.published import images_per_second
from shards.errors import UserError
from tests.benchmarks.test_benchmarks import check_environment, check_rates, run

pytestmark = pytest.mark.slow


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
    tiny = ("--stages", "32:8", "--threads", "1,2", "--rounds", "2", "--seconds", "0.03", "--studies", "12")
    rows, _ = run("loading.demand", tmp_path, *tiny)

    check_environment(rows, "loading.demand")
    assert all((row["size"], row["batch"]) == (32, 8) for row in rows)
    supply = check_rates([row for row in rows if "baseline" in row], rounds=2)
    combinations = [(feed, threads) for feed in ("cpu", "raw") for threads in (1, 2)]
    assert [(row["feed"], row["threads"]) for row in supply.values()] == combinations
    derived, missing = (row for row in rows if "demand" in row)
    wanted = images_per_second(32)
    assert derived["demand"] == "RTX 3090, derived" and derived["images_per_second"] == wanted
    assert missing["not_measured"] == "no committed run of step on a GPU" and missing["images_per_second"] is None
    rules = [row for row in rows if "rule" in row]
    assert [(row["rule"], row["feed"]) for row in rules] == [("RTX 3090, derived", feed) for feed in ("cpu", "raw")]
    for rule in rules:
        own = [row for row in supply.values() if row["feed"] == rule["feed"]]
        rates = {row["threads"]: row["images_per_second"]["median"] for row in own}
        assert (rule["demanded"], rule["headroom"]) == (wanted, HEADROOM)
        assert rule["threads_needed"] == threads_needed(rule["demanded"], rates)
        assert rule["cores_busy"] == rule["demanded"] * own[0]["cpu_seconds_per_1000"] / 1000


def test_the_demand_of_a_committed_step_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.results.RESULTS", tmp_path)
    rate = {"median": 500.0, "low": 490.0, "high": 510.0}
    row = {"contender": "ours, cached", "size": 224, "images_per_second": rate}  # as older rows have it
    row |= {"environment": {"gpu": "a GPU", "date": "2026-01-01"}}
    (tmp_path / "step.jsonl").write_text(json.dumps(row))
    assert demand.measured_demand(Stage(224, 8)) == {"demand": "a GPU", "images_per_second": rate}
    assert demand.measured_demand(Stage(320, 8))["images_per_second"] is None


def test_a_feed_that_is_none():
    with pytest.raises(UserError, match="--feeds 'gpu': choose from cpu, mixed, hybrid, raw"):
        DemandRun(feeds=("gpu",)).resolved()
