"""The benchmarks of slow disks and of the windowed order at a tiny size: what their rows say."""

import pytest

from tests.benchmarks.test_benchmarks import check_environment, run

TINY = ("--images", "40", "--shard-images", "5", "--window", "2", "--batch", "8", "--rounds", "1")


def test_storage_benchmark(tmp_path):
    rows, printed = run("storage", tmp_path, *TINY, "--no-limits")
    check_environment(rows, "storage")
    found = {row["contender"]: row for row in rows if "contender" in row}
    assert list(found) == ["sequential read", "windowed", "windowed, no read-ahead", "global"]
    for name, row in found.items():
        assert row["images_per_second"]["median"] > 0 and row["megabytes_per_second"] > 0, name
        assert row["limits"] is None and row["not_limited"] == "left out (--no-limits)"
        assert row["shards"] >= 8 and row["dataset_mib"] == pytest.approx(rows[0]["dataset_mib"])
        if name != "sequential read":
            low, high = row["own_mib"]
            assert 30 < low <= high
    ratios = [row for row in rows if "ratio" in row]
    assert [row["at_least"] for row in ratios] == [None] * 3  # nothing is promised of a disk that nobody limited
    rate = found["sequential read"]["images_per_second"]["median"]
    assert ratios[0]["ratio"] == pytest.approx(found["windowed"]["images_per_second"]["median"] / rate)
    flat = [row for row in rows if "promise" in row]
    assert len(flat) == 3 and all(row["met"] == (row["value"] <= row["at_most"]) for row in flat)
    assert "disk and memory as they are: left out (--no-limits)" in printed


def test_shuffle_benchmark(tmp_path):
    rows, _ = run("shuffle", tmp_path, "--rows", "6000", "--shard-images", "100", "--windows", "2,60", "--epochs", "4")
    check_environment(rows, "shuffle")
    by = {(row["order"], row["measure"]): row for row in rows}
    assert {row["order"] for row in rows} == {"global", "windowed, 2 shards", "windowed, 60 shards"}
    for (order, measure), row in by.items():
        assert row["of_global"] == pytest.approx(row["value"] / by["global", measure]["value"]), (order, measure)
    same = "pairs of one study in a batch"
    # 60 shards are all of them: one permutation of everything; two shards hold a thirtieth of the data
    assert by["windowed, 60 shards", same]["of_global"] == pytest.approx(1, abs=0.5)
    assert 15 < by["windowed, 2 shards", same]["of_global"] < 60
