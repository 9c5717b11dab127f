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


def test_bucket_benchmark(tmp_path):
    tiny = ("--images", "90", "--shard-images", "6", "--batch", "8", "--size", "48", "--rounds", "2", "--copies", "1,6")
    rows, printed = run("bucket", tmp_path, *tiny, "--latency", "20", "--rate", "0.4")
    check_environment(rows, "bucket")
    copying = {row["contender"]: row for row in rows if "megabytes_per_second" in row}
    assert list(copying) == ["copies, 1 at a time", "copies, 6 at a time", "s3fs, get"]
    assert all(len(row["runs"]) == 2 and row["cpu_seconds_per_gb"] > 0 for row in copying.values())
    one, six = (copying[f"copies, {n} at a time"]["megabytes_per_second"]["median"] for n in (1, 6))
    assert six > 1.5 * one  # a round trip each, and six of them at once
    epochs = {row["contender"]: row for row in rows if "first_seconds" in row}
    assert list(epochs) == ["first batch, global", "first batch, windowed", "first batch, global, local"]
    copied = rows[0]["dataset_mib"] * 2**20 / 0.4e6
    whole, windowed, local = epochs.values()
    for row in (whole, windowed):
        assert row["epoch_seconds"]["low"] > 0.8 * copied and row["waited_seconds"]["median"] > 0
    assert whole["first_seconds"]["low"] > 0.8 * copied > windowed["first_seconds"]["low"]
    assert local["waited_seconds"]["high"] == 0
    assert rows[0]["shards"] >= 15 and "20 ms an answer" in printed
