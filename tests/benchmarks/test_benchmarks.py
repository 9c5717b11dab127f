"""Every benchmark at a tiny size, as a user runs it: what its rows say, and that it writes where it was told to."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import joblib
import pytest

from benchmarks.options import STAGES, Options, Stage, listed, option, parse
from benchmarks.results import Spread, Target, save

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(module: str, out: Path, *arguments: str, to: str | None = None) -> tuple[list[dict], str]:
    """The rows that a benchmark saved, and what it printed."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--save", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = (out / f"{to or module.rpartition('.')[2]}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], done.stdout


def check_rates(rows: list[dict], rounds: int) -> dict[str, dict]:
    rates = {row["baseline"]: row for row in rows if "images_per_second" in row}
    for name, row in rates.items():
        spread = row["images_per_second"]
        assert 0 < spread["low"] <= spread["median"] <= spread["high"], name
        assert len(row["runs"]) == rounds, name
        assert row["cpu_seconds_per_1000"] > 0 or row.get("cache") == "cold", name  # counted in 100ths of a second
    return rates


def check_ratios(rows: list[dict], rates: dict[str, dict]) -> dict[str, dict]:
    ratios = [row for row in rows if "ratio" in row]
    for row in ratios:
        ours, theirs = (rates[row[side]]["images_per_second"]["median"] for side in ("ours", "theirs"))
        assert row["ratio"] == pytest.approx(ours / theirs)
        assert row["met"] == (None if row["at_least"] is None else row["ratio"] >= row["at_least"])
    return {f"{row['ours']} / {row['theirs']}": row for row in ratios}


def in_memory(folder: Path) -> bool:
    """Whether its files have no disk to come from."""
    return subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip() == "tmpfs"


def check_environment(rows: list[dict], module: str, name: str | None = None) -> None:
    for row in rows:
        found = row["environment"]
        assert row["benchmark"] == (name or module.rpartition(".")[2])
        assert found["command"].startswith(f"python -m benchmarks.{module} ")
        assert found["cpu"] and found["cores"] >= 1 and found["date"]
        assert found["gpu"] is None
        assert {"python", "torch", "numpy", "simplejpeg"} <= set(found["versions"])


def test_peers_benchmark(tmp_path):
    """One stage of 224 pixels in batches of 8, so that every target of that stage has a verdict or says why not."""
    sizes = ("--stages", "224:8", "--cold", "224", "--images", "24", "--native-images", "2")
    some = "JPEG,raw,best-effort,FFCV"
    rows, printed = run("peers", tmp_path, *sizes, "--rounds", "2", "--seconds", "0.05", "--only", some, to="loader")

    check_environment(rows, "peers", "loader")
    warm = check_rates([row for row in rows if row.get("cache") == "warm"], rounds=2)
    (lean,) = (name for name in warm if name.startswith("best-effort DataLoader, "))
    assert list(warm) == ["JPEG", "raw", lean]
    two, four = (f"{count * joblib.cpu_count()} workers" for count in (1, 2))
    assert list(warm[lean]["tried"]) == [two, four] and lean.endswith((two, four))
    cold_rows = [row for row in rows if row.get("cache") == "cold"]
    assert [row["baseline"] for row in cold_rows] == list(warm)
    cold = check_rates(cold_rows, rounds=2)
    assert all((row["size"], row["batch"]) == (224, 8) for row in rows if "size" in row)
    for name, row in warm.items():
        assert row["peak_mib"] > 30, name  # a Python process with torch in it
        rate = row["images_per_second"]["median"]
        assert row["megapixels_per_second"] == pytest.approx(rate * 224 * 224 / 1e6)
    assert warm["raw"]["stored_bytes_per_image"] == 224 * 224 + 128  # an .npy's header
    assert warm["JPEG"]["stored_bytes_per_image"] == warm[lean]["stored_bytes_per_image"] < 50_000
    if in_memory(Path(tempfile.gettempdir())):
        assert not cold and all("stay in memory" in row["not_measured"] for row in cold_rows)
    else:
        # as much as is stored; more where the kernel reads ahead, DALI past the end of the run
        for name, row in cold.items():
            whole = row["stored_bytes_per_image"] * min(1, 24 / row["images"])  # a run may have images twice
            assert 0.9 * whole < row["read_bytes_per_image"] < 4 * row["stored_bytes_per_image"], name

    bounds = {(row["ours"], row["theirs"].partition(",")[0]): row["at_least"] for row in rows if "ratio" in row}
    assert bounds["JPEG", "decode only"] == 0.8 and bounds["raw", "cached batches"] == 0.9
    assert bounds["JPEG", "SPDL"] == bounds["JPEG", "litData"] == bounds["raw", "FFCV with our flips"] == 1
    measured = check_ratios([row for row in rows if row.get("ratio")], warm)
    assert list(measured) == [f"JPEG / {lean}", f"raw / {lean}"]
    left_out = [row for row in rows if "not_measured" in row and "baseline" in row and "cache" not in row]
    absent = {row["baseline"]: row["not_measured"] for row in left_out}
    assert len(absent) == 5 and all(name.startswith("FFCV") for name in absent)
    assert set(absent.values()) == {"no --envs was given"}
    assert "JPEG / FFCV JPEG: not measured (FFCV JPEG: no --envs was given)" in printed


def test_pack_benchmark(tmp_path):
    few = ("--images", "3", "--rounds", "1", "--seconds", "0.1")
    rows, printed = run("packing.pack", tmp_path, *few, "--jobs", "1,2")

    check_environment(rows, "packing.pack")
    rates = check_rates(rows, rounds=1)
    whole = rates["whole packing, 2 jobs"]
    assert whole["images"] == whole["files"] >= 3
    assert whole["per_core"] == pytest.approx(whole["images_per_second"]["median"] / 2)
    assert whole["peak_mib"] > 30
    alone_cpu = rates["whole packing, 1 job"]["cpu_seconds_per_1000"]
    assert whole["cpu_seconds_per_1000"] > 0.5 * alone_cpu  # workers that ended are counted
    # what packing cannot do without takes less of a core than packing: nearly, of so few images
    alone = rates["decode and encode alone"]["cpu_seconds_per_1000"]
    assert alone < 2 * rates["renditions"]["cpu_seconds_per_1000"]
    found = check_ratios([row for row in rows if not row.get("ours", "").startswith("verify")], rates)
    assert [row["at_least"] for row in found.values()] == [2.5, 2.5, 2.5, 0.8, 1.85, None, 0.75]
    assert "whole packing, 2 jobs / whole full decode, 2 jobs" in found
    assert "whole packing, 1 job / decode and encode alone" in found

    speeds = {row["baseline"]: row for row in rows if "megabytes_per_second" in row}
    names = [f"{name}, {jobs}" for jobs in ("1 job", "2 jobs") for name in ("verify", "verify --deep", "SHA-256 alone")]
    assert list(speeds) == names
    for verified in (row for row in rows if row.get("ours", "").startswith("verify")):
        mine, theirs = (speeds[verified[side]]["megabytes_per_second"]["median"] for side in ("ours", "theirs"))
        assert verified["ratio"] == pytest.approx(mine / theirs) and verified["at_least"] == 0.9
    assert printed.count("PASS") + printed.count("MISS") == 8


def test_target_counts_the_fastest_of_theirs():
    rates = {"ours": 30.0, "slow": 5.0, "fast": 10.0}
    found = Target("ours", ("slow", "fast"), 4).check(rates)
    assert (found["theirs"], found["ratio"], found["met"]) == ("fast", 3.0, False)
    assert Target("ours", ("slow",), 6).check(rates)["met"] is True
    assert Target("ours", ("slow",), None).check(rates)["met"] is None


def test_spread():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0)


def test_rows_are_saved_where_that_was_asked_for(tmp_path, capsys):
    save([{"a": 1}], {"gpu": None}, None, "some")
    assert capsys.readouterr().out == ""
    for value in (1, 2):
        save([{"a": value}], {"gpu": None}, tmp_path / "new", "some")
    rows = [json.loads(line) for line in (tmp_path / "new" / "some.jsonl").read_text().splitlines()]
    assert rows == [{"benchmark": "some", "a": value, "environment": {"gpu": None}} for value in (1, 2)]


@dataclass(frozen=True)
class Some(Options):
    stages: tuple[Stage, ...] = option("64:8", "SIZE:BATCH,...", STAGES)
    sizes: tuple[int, ...] = option("", "of what", listed(int))
    rounds: int = option(5, "runs")
    most: float = option(None, "of 100 % [all]", float)
    quick: bool = option(False, "tiny")


def test_dicom_benchmark(tmp_path):
    rows, _ = run("packing.dicom", tmp_path, "--rounds", "2", "--images", "3")
    check_environment(rows, "packing.dicom")
    rates = check_rates(rows, rounds=2)
    kinds = [f"{name}, {kind} DICOM" for kind in ("uncompressed", "lossless") for name in ("packing", "alone")]
    assert list(rates) == kinds and all(row["images"] == 3 for row in rates.values())
    ratios = check_ratios(rows, rates)
    assert [row["at_least"] for row in ratios.values()] == [0.8, 0.8]
    assert {(row["height"], row["width"], row["bits"]) for row in rows} == {(3000, 2500, 12)}


def test_options_of_the_command_line(monkeypatch, capsys):
    def parsed(*arguments: str) -> Some:
        monkeypatch.setattr(sys, "argv", ["some", *arguments])
        return parse(Some, "benchmarks.some", "What is asked?")

    assert parsed() == Some() == Some(None, (Stage(64, 8),), (), 5, None, False)
    given = parsed("--stages", "32:4,64:2", "--sizes", "1,2", "--most", "3", "--quick", "--save", "out")
    assert given == Some(Path("out"), (Stage(32, 4), Stage(64, 2)), (1, 2), 5, 3.0, True)
    assert parsed("--save").save == ROOT / "benchmarks" / "results"
    for wrong in (("--rounds", "some"), ("--unknown",)):
        with pytest.raises(SystemExit):
            parsed(*wrong)
    with pytest.raises(SystemExit):
        parsed("--help")
    assert "of 100 % [all]" in capsys.readouterr().out
