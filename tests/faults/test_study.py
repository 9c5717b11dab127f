"""`cxrdali study` of six lines: its numbers, killed at random moments, shared by two workers, one of which dies."""

import itertools
import os
import random
import re
import signal
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from cxrdali.predictions import read
from shards.storage.files import only_one
from shards.storage.sealed import read_json
from tests.faults.test_paper import killed
from tests.faults.trainers import child, command_line, error_line, in_child

# of fork, in a process with threads
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SIX = """[runs.small]
stage = 1
model = { arch = "test_efficientnet", pretrained = false }
optimizer = { epochs = 2, batch = 16, warmup_epochs = 0 }
data = { size = 48, folds = 3, labels = "cxr-lt-2023" }
grid = { lr = [1e-3, 3e-4], seed = [0, 1] }
"""
RUNS = ("small-lr1e-3-seed0", "small-lr1e-3-seed1", "small-lr3e-4-seed0", "small-lr3e-4-seed1")
TIMES = ("images_per_second", "hours", "folder")


@pytest.fixture(scope="module")
def study(pack_folder, tmp_path_factory):
    """The command line into a folder, of a study with this text."""
    folder, numbers = tmp_path_factory.mktemp("study"), itertools.count()

    def command(out, *more, text=SIX):
        file = folder / f"six{next(numbers)}.toml"
        file.write_text(text)
        return ["study", file, "--data", pack_folder, "--out", out, "--draws", 0, "--set", "device=cpu", *more]

    return command


@pytest.fixture(scope="module")
def unbroken(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert in_child(command_line, folder / "log", study(folder / "six")) == 0, (folder / "log").read_text()
    return folder / "six"


def results(out):
    """Everything that people look at, without seconds, paths, and who made what."""
    compared = {path.name: read_json(path) for path in (out / "comparisons").iterdir()}
    compared["runs.json"].pop("settings")
    compared["runs.json"]["runs"] = [
        {key: row[key] for key in row if key not in TIMES} for row in compared["runs.json"]["runs"]
    ]
    weights = {run: (out / "runs" / run / "best.safetensors").read_bytes() for run in RUNS}
    tables = {run: read(out / "runs" / run / "val_predictions.parquet").values.tobytes() for run in RUNS}
    return compared, weights, tables, (out / "study.json").read_bytes()


def test_six_lines_train_a_grid_and_compare_it_over_seeds(unbroken, dataset):
    """Means, standard deviations and the t interval by hand from the tables and labels."""
    assert sorted(path.name for path in (unbroken / "runs").iterdir()) == sorted(RUNS)
    found = read_json(unbroken / "comparisons" / "seeds.json")
    labels, maps = dataset.labels("cxr-lt-2023"), {}
    for run in RUNS:
        table = read(unbroken / "runs" / run / "val_predictions.parquet")
        rows = pd.Index(dataset.catalog["image_id"]).get_indexer(table.ids["image_id"])
        truth = labels.values[rows] == 1
        there = truth.any(axis=0)
        maps[run] = average_precision_score(truth[:, there], table.values[:, there], average="macro")
    cells = {cell: [maps[f"{cell}-seed{seed}"] for seed in (0, 1)] for cell in ("small-lr1e-3", "small-lr3e-4")}
    rows = {row["run"]: row for row in found["scores"] if row["metric"] == "mAP"}
    for cell, values in cells.items():
        assert list(rows[cell]["values"].values()) == pytest.approx(values)
        assert (rows[cell]["mean"], rows[cell]["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert rows[cell]["n"] == 2
    (row,) = [row for row in found["differences"] if row["metric"] == "mAP"]
    paired = np.subtract(cells["small-lr3e-4"], cells["small-lr1e-3"])
    reach = np.std(paired, ddof=1) / np.sqrt(2) * stats.t.ppf(0.975, 1)
    assert (row["run"], row["against"], row["n"]) == ("small-lr3e-4", "small-lr1e-3", 2)
    numbers = [paired.mean(), paired.mean() - reach, paired.mean() + reach]
    assert [row["mean"], row["low"], row["high"]] == pytest.approx(numbers)
    compared = read_json(unbroken / "comparisons" / "runs.json")
    assert {row["name"]: row["mAP"] for row in compared["runs"]} == pytest.approx(maps)
    assert "</html>" in (unbroken / "report.html").read_text()


def test_killed_at_ten_random_moments_it_ends_with_the_same_bytes(unbroken, study, tmp_path):
    out, log, kills, rng = tmp_path / "six", tmp_path / "log", 0, random.Random(0)
    while kills < 10 and in_child(killed, log, study(out), rng.randint(1, 25), rng.choice(["before", "after"])):
        kills += 1
    assert kills >= 8, log.read_text()
    assert in_child(command_line, log, study(out)) == 0, log.read_text()
    assert results(out) == results(unbroken)
    assert not list(out.rglob("*.part"))
    assert in_child(command_line, log, study(out)) == 0
    assert "all 7 steps were done before" in log.read_text()


def trained(*logs):
    return [name for log in logs for name in re.findall(r"\] train (\S+):", log.read_text())]


def test_two_workers_share_the_runs_and_none_is_done_twice(unbroken, study, tmp_path):
    out, logs = tmp_path / "six", [tmp_path / "one", tmp_path / "two"]
    workers = [child(command_line, log, study(out, "--part", f"{n}/2")) for n, log in enumerate(logs, 1)]
    for each in workers:
        each.join(120)
    assert [each.exitcode for each in workers] == [0, 0], [log.read_text() for log in logs]
    assert sorted(trained(*logs)) == sorted(RUNS)
    assert all(trained(log) for log in logs), "each does a part of them"
    assert results(out) == results(unbroken)


def test_the_run_of_a_dead_worker_is_taken_over(unbroken, study, tmp_path):
    out, logs = tmp_path / "six", [tmp_path / "one", tmp_path / "two"]
    first = child(killed, logs[0], study(out, "--part", "1/2"), 12, "after")
    end = time.monotonic() + 60
    while not (out / "runs").exists() and time.monotonic() < end:
        time.sleep(0.01)
    second = child(command_line, logs[1], study(out, "--part", "2/2"))
    for each in (first, second):
        each.join(120)
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL, 0), logs[1].read_text()
    said = logs[1].read_text()
    assert re.search(r"train small-lr1e-3-seed0: process \d+ on \S+ left it; it is taken over", said)
    assert set(trained(logs[1])) >= {"small-lr1e-3-seed0", "small-lr1e-3-seed1"}
    assert results(out) == results(unbroken)


def test_jobs_are_processes_of_the_same_command(unbroken, study, tmp_path):
    import subprocess
    import sys

    out = tmp_path / "six"
    arguments = [sys.executable, "-m", "cli", *map(str, study(out, "--jobs", 2))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=180, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.findall(r"^(\d)\| \[\d/7\] train (\S+):", done.stdout, re.MULTILINE)
    assert sorted(run for _, run in said) == sorted(RUNS)
    assert {worker for worker, _ in said} == {"1", "2"}
    assert "all 7 steps are done, " in done.stdout.splitlines()[-1]
    assert results(out) == results(unbroken)


FAILING = """[settings]
stage = 1
model = { arch = "test_efficientnet", pretrained = false }
optimizer = { epochs = 2, batch = 16, warmup_epochs = 0 }
data = { size = 48, folds = 3, labels = "cxr-lt-2023" }
[runs.bad]
lr = 99.0
weight_decay = 99.0
epochs = 4
[runs.after]
starts_from = "bad"
[runs.good]
lr = 1e-3
[[predict]]
splits = "test"
"""


def test_a_failed_run_is_recorded_and_what_does_not_need_it_goes_on(study, tmp_path):
    out, log = tmp_path / "study", tmp_path / "log"
    code = in_child(command_line, log, study(out, text=FAILING))
    line = error_line(code, log.read_text(), "train bad failed", "; lower --lr", "--set lr=... for --lr")
    assert re.search(r"; \d+ steps that need what failed were not done; \S+/report.html and table.md have what ", line)
    page, table = (out / "report.html").read_text(), (out / "table.md").read_text()
    for text in (page, table):
        assert "failed: " in text and "; lower --lr" in text, "which run failed, and why"
    assert re.search(r"\| good \| test \| 1 \| 0\.\d{3} \|", table)
    assert not (out / ".steps" / "report.made.json").exists()
    assert (out / "evaluations" / "good.test.json").is_file()
    assert not (out / "runs" / "after").exists() and not (out / "predictions" / "bad.test.parquet").exists()
    assert "; lower --lr" in read_json(out / ".steps" / "train-bad.failed.json")["line"]
    assert trained(log) == ["bad", "good"]
    # mended: what failed is tried again, what is done stays
    text = FAILING.replace("99.0", "1e-3")
    assert in_child(command_line, log, study(out, text=text)) == 0, log.read_text()
    assert trained(log) == ["bad", "after"]
    assert not list((out / ".steps").glob("*.failed.json"))


def test_other_work_in_the_folder_is_refused(unbroken, study, tmp_path):
    with only_one(unbroken / ".lock", "working in it"):
        code = in_child(command_line, tmp_path / "log", study(unbroken))
    error_line(code, (tmp_path / "log").read_text(), "another process is working in it; wait for it or stop it")
    with only_one(unbroken / ".lock", "working in it", shared=True):
        code = in_child(
            command_line, tmp_path / "log", study(unbroken, text=SIX.replace("seed = [0, 1]", "seed = [0]"))
        )
    error_line(code, (tmp_path / "log").read_text(), "another process does other steps in it; wait for it or stop it")


def test_a_dataset_that_changed_under_a_study_is_refused(unbroken, study, release_folder, tmp_path):
    from shards.packing.options import PackOptions
    from shards.packing.pack import pack
    from shards.releases.open import open_release
    from shards.renditions.rendition import Size

    pack(open_release(release_folder), tmp_path / "pack", PackOptions(sizes=(Size(48), Size(64)), quality=50))
    command = study(unbroken)
    command[3] = tmp_path / "pack"
    before = (unbroken / "study.json").read_bytes()
    code = in_child(command_line, tmp_path / "log", command)
    changed = "train small-lr1e-3-seed0: dataset changed: the same images packed otherwise: quality 95 there, 50 here"
    error_line(code, (tmp_path / "log").read_text(), changed, "; give another --out, or --new-data")
    assert (unbroken / "study.json").read_bytes() == before


def test_sigterm_stops_all_jobs_and_what_is_saved_continues(study, tmp_path):
    import subprocess
    import sys

    out = tmp_path / "six"
    arguments = [sys.executable, "-m", "cli", *map(str, study(out, "--jobs", 2, "--set", "epochs=4000"))]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 90
    while len([*out.glob("runs/*/metrics.csv")]) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    process.terminate()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.count("stopped by SIGTERM; saved, the same command continues") == 2
    assert len([*out.glob("runs/*/last.pt")]) == 2
