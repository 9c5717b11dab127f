"""The benchmark of slow disks at a tiny size: what its rows say."""

import pytest

from tests.benchmarks.test_benchmarks import check_environment, run

pytestmark = pytest.mark.slow

TINY = ("--images", "40", "--shard-images", "5", "--window", "2", "--batch", "8", "--rounds", "1")


def test_storage_benchmark(tmp_path):
    rows, printed = run("storage", tmp_path, *TINY, "--no-limits")
    check_environment(rows, "storage")
    found = {row["baseline"]: row for row in rows if "baseline" in row}
    assert list(found) == ["sequential read", "windowed", "windowed, no read-ahead", "global"]
    for name, row in found.items():
        assert row["images_per_second"]["median"] > 0 and row["megabytes_per_second"] > 0, name
        assert row["limits"] is None and row["not_limited"] == "left out (--no-limits)"
        assert row["shards"] >= 8 and row["dataset_mib"] == pytest.approx(rows[0]["dataset_mib"])
        if name != "sequential read":
            low, high = row["own_mib"]
            assert 30 < low <= high
    ratios = [row for row in rows if "ratio" in row]
    assert [row["at_least"] for row in ratios] == [None] * 3  # no target for a disk that nobody limited
    rate = found["sequential read"]["images_per_second"]["median"]
    assert ratios[0]["ratio"] == pytest.approx(found["windowed"]["images_per_second"]["median"] / rate)
    flat = [row for row in rows if "target" in row]
    assert len(flat) == 3 and all(row["met"] == (row["value"] <= row["at_most"]) for row in flat)
    assert "disk and memory as they are: left out (--no-limits)" in printed
