"""`benchmarks.training.start`: a real command, ended at its first step."""

from pathlib import Path

import pytest

from benchmarks import datasets
from benchmarks.training.start import StartRun, rows_of, started

pytestmark = pytest.mark.slow


def test_a_start_is_timed_by_its_parts(tmp_path: Path):
    release = datasets.synthetic(tmp_path / "release", 24, 64)
    data = datasets.packed(release, tmp_path / "packed", (64,)).root
    options = StartRun(arch="resnet10t", size=64)
    found = started(data, options, tmp_path)
    assert set(found) == {"total", "imports", "network", "black images"}
    parts = found["imports"] + found["network"] + found["black images"]
    assert 0 < parts < found["total"] < 60
    assert not (tmp_path / "run" / "last.pt").exists()  # it ended before its first step was done


def test_the_target_leaves_out_the_network_alone():
    run = {"total": 4.0, "imports": 2.0, "network": 1.5, "black images": 0.25}
    target, *parts = rows_of([run, {**run, "total": 5.5}, {**run, "total": 4.1}], StartRun())
    assert target["value"] == {"median": pytest.approx(2.6), "low": 2.5, "high": 4.0}
    assert target["met"] and target["at_most"] == 3.0
    assert [each["part"] for each in parts] == ["total", "imports", "network", "black images"]
