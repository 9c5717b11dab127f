"""Every benchmark at a tiny size, as a user runs it: what its rows say, and that it writes where it was told to."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest
import torch

from benchmarks.loading.baselines import Pass, lean_loader
from benchmarks.loading.dalireader import DaliReader, ReaderOptions
from benchmarks.loading.registry import Data, Work, baselines
from benchmarks.loading.served import Served
from benchmarks.loading.webdataset_cv import webdataset_loader
from benchmarks.options import STAGES, Options, Stage, listed, option, parse
from benchmarks.results import Spread, Target, save
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import global_order
from shards.dataset.mapped import MappedSize

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(module: str, out: Path, *arguments: str) -> tuple[list[dict], str]:
    """The rows that a benchmark saved, and what it printed."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--save", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = (out / f"{module.rpartition('.')[2]}.jsonl").read_text().splitlines()
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


def check_environment(rows: list[dict], module: str) -> None:
    for row in rows:
        found = row["environment"]
        assert row["benchmark"] == module.rpartition(".")[2]
        assert found["command"].startswith(f"python -m benchmarks.{module} ")
        assert found["cpu"] and found["cores"] >= 1 and found["date"]
        assert found["gpu"] is None
        assert {"python", "torch", "numpy", "simplejpeg"} <= set(found["versions"])


def test_loader_benchmark(tmp_path):
    """One stage of 224 pixels in batches of 8, so that every target of that stage has a verdict or says why not."""
    sizes = ("--stages", "224:8", "--cold", "224", "--images", "24", "--native-images", "2")
    some = "JPEG,raw,best-effort,FFCV"
    rows, printed = run("loading.loader", tmp_path, *sizes, "--rounds", "2", "--seconds", "0.05", "--only", some)

    check_environment(rows, "loading.loader")
    warm = check_rates([row for row in rows if row.get("cache") == "warm"], rounds=2)
    two, four = (f"best-effort DataLoader, {count * joblib.cpu_count()} workers" for count in (1, 2))
    assert list(warm) == ["JPEG", "raw", two, four]
    cold_rows = [row for row in rows if row.get("cache") == "cold"]
    assert [row["baseline"] for row in cold_rows] == list(warm)
    cold = check_rates(cold_rows, rounds=2)
    assert all((row["size"], row["batch"]) == (224, 8) for row in rows if "size" in row)
    for name, row in warm.items():
        assert row["peak_mib"] > 30, name  # a Python process with torch in it
        rate = row["images_per_second"]["median"]
        assert row["megapixels_per_second"] == pytest.approx(rate * 224 * 224 / 1e6)
    assert warm["raw"]["stored_bytes_per_image"] == 224 * 224 + 128  # an .npy's header
    assert warm["JPEG"]["stored_bytes_per_image"] == warm[two]["stored_bytes_per_image"] < 50_000
    if in_memory(Path(tempfile.gettempdir())):
        assert not cold and all("stay in memory" in row["not_measured"] for row in cold_rows)
    else:
        # as much as is stored; more where the kernel reads ahead, DALI past the end of the run
        for name, row in cold.items():
            whole = row["stored_bytes_per_image"] * min(1, 24 / row["images"])  # a run may have images twice
            assert 0.9 * whole < row["read_bytes_per_image"] < 4 * row["stored_bytes_per_image"], name

    assert [row["at_least"] for row in rows if "ratio" in row] == [1.2, 0.8, 0.97, 2.8, 5, 8, 100, 100] + [None] * 5
    measured = check_ratios([row for row in rows if row.get("ratio")], warm)
    assert len(measured) == 2
    left_out = [row for row in rows if "not_measured" in row and "baseline" in row and "cache" not in row]
    absent = {row["baseline"]: row["not_measured"] for row in left_out}
    assert len(absent) == 5 and all(name.startswith("FFCV") for name in absent)
    assert set(absent.values()) == {"no interpreter with FFCV was given"}
    assert "FFCV JPEG: not measured (FFCV JPEG: no interpreter with FFCV was given)" in printed


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


def test_the_best_effort_loader_makes_our_pixels(dataset, tmp_path):
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


@pytest.fixture
def work(dataset, tmp_path):
    """What a baseline of the loader benchmark is given, over the tests' dataset: JPEGs of 48 pixels."""
    mapped = MappedSize(dataset.stored(48))
    files = tuple(tmp_path / f"{row}.jpg" for row in range(len(dataset.packed)))
    for row in dataset.packed.nonzero()[0]:
        files[row].write_bytes(mapped[row])
    return Work(Data(dataset.root, dataset.root, {48: files}, files[:4]), 48, 8, "cpu", "auto")


def stored_images(dataset) -> np.ndarray:
    """uint8 [rows, 48, 48] by OpenCV."""
    mapped = MappedSize(dataset.stored(48))
    rows = dataset.packed.nonzero()[0]
    return np.stack([cv2.imdecode(mapped[row], cv2.IMREAD_GRAYSCALE) for row in rows])


def test_every_baseline_gives_as_many_images_as_it_was_asked_for(work):
    pytest.importorskip("albumentations")
    for name, (make, (given, *rest)) in baselines(work).items():
        if name.startswith("FFCV") or "4 workers" in name:
            continue  # tests/benchmarks/loading/test_ffcv.py; twice the workers is the same code
        made = make(replace(given, size=56) if name == "raw" else given, *rest)  # 56 is what is stored raw
        assert made.open(made.step)() == made.step, name
        assert made.stored_bytes > 100, name


def test_dali_s_reader_gives_the_stored_pixels(dataset):
    tars = list(dataset.stored(48).paths.values())
    expected = stored_images(dataset)
    options = ReaderOptions(48, 8, threads=2, shuffle=False)
    count = len(expected) // 8
    plain = torch.cat(list(DaliReader(tars, options, None).batches(count))).numpy()[:, 0]
    assert (plain == expected[: count * 8]).all()
    flips = AugmentOptions(hflip=1, vflip=0, cutout_probability=0)
    flipped = torch.cat(list(DaliReader(tars, options, flips).batches(count))).numpy()[:, 0]
    assert (flipped == plain[:, :, ::-1]).all()
    squares = AugmentOptions(hflip=0, vflip=0, cutout_probability=1, side=0.25)
    cut = torch.cat(list(DaliReader(tars, options, squares).batches(count))).numpy()[:, 0]
    differs = cut != plain
    assert (cut[differs] == 0).all() and differs.any(axis=(1, 2)).all()
    assert (differs.sum(axis=(1, 2)) <= 5 * 12 * 12).all()


def test_webdataset_gives_the_stored_pixels_once_an_epoch(dataset):
    tars = list(dataset.stored(48).paths.values())
    expected = stored_images(dataset)
    (epoch,) = [torch.cat(list(webdataset_loader(tars, 1, len(expected), 1, None))).numpy()[:, 0]]
    assert sorted(image.tobytes() for image in epoch) == sorted(image.tobytes() for image in expected)
    halves = AugmentOptions(hflip=1, vflip=1, cutout_probability=0)
    turned = torch.cat(list(webdataset_loader(tars, 1, len(expected), 1, halves))).numpy()[:, 0, ::-1, ::-1]
    assert len(turned) == len(expected)
    assert {image.tobytes() for image in turned} <= {image.tobytes() for image in expected}  # sampled with replacement


def _fails() -> None:
    raise ValueError("no such disk")


def test_a_baseline_that_fails_says_why():
    with pytest.raises(RuntimeError, match="ValueError: no such disk"):
        Served(_fails)


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
