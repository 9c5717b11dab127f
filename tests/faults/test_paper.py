"""`cxrdali paper` killed with SIGKILL at many moments: the same command goes on and ends with the same results."""

import shutil
import signal
import time

import numpy as np
import pytest

from cxrdali.predictions import read
from tests.cli.cli import run, start
from tests.cxrdali.test_paper import TINY

# enough to be killed in training, predicting, pooling and evaluating
MODELS = "0,2,3,5"
FINAL = "predictions/ensemble-views.test.parquet"


@pytest.fixture(scope="module")
def recipes_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    file.write_text(TINY)
    return file


def command(pack, out, recipes_file, *more):
    return ["paper", "--data", pack, "--out", out, "--recipes", recipes_file, "--models", MODELS, "--draws", 0,
            "--labels", "cxr-lt-2023", "--set", "device=cpu", *more]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(pack_folder, recipes_file, tmp_path_factory):
    """A folder that was never interrupted, and the seconds that it took."""
    out = tmp_path_factory.mktemp("unbroken") / "paper"
    started = time.perf_counter()
    done = run(*command(pack_folder, out, recipes_file), cwd=out.parent)
    assert done.returncode == 0, done.stderr
    return out, time.perf_counter() - started


def results(out):
    """Everything that people look at, as numbers and text."""
    tables = {path.name: read(path) for path in sorted((out / "predictions").glob("*.parquet"))}
    return {
        "tables": {name: (list(table.ids["image_id"]), table.values.tobytes()) for name, table in tables.items()},
        "evaluations": {path.name: path.read_bytes() for path in (out / "evaluations").iterdir()},
        "views": (out / "views.json").read_bytes(),
        "submission": (out / "submission.zip").read_bytes(),
    }


def test_killed_again_and_again_it_ends_where_the_unbroken_one_did(unbroken, pack_folder, recipes_file, tmp_path):
    """Killed at seven moments over its length, each time in another process; then left alone."""
    whole, seconds = unbroken
    out, kills = tmp_path / "paper", 0
    # start-up takes about half of so small a job: what lies after it is where the kills go
    for after in np.linspace(0.35, 0.95, 7) * seconds:
        process = start(*command(pack_folder, out, recipes_file), cwd=tmp_path)
        time.sleep(float(after))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(60)
    assert kills >= 3
    last = run(*command(pack_folder, out, recipes_file), cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert results(out) == results(whole)
    assert not list(out.rglob("*.part"))
    again = run(*command(pack_folder, out, recipes_file), cwd=tmp_path)
    assert "steps were done before" in again.stdout


def test_another_process_in_the_same_folder_is_refused(unbroken, pack_folder, recipes_file):
    from shards.files import only_one

    out, _ = unbroken
    with only_one(out / ".lock", "working in it"):
        refused = run(*command(pack_folder, out, recipes_file), cwd=out.parent)
    assert refused.returncode == 1
    assert "paper: another process is working in it; wait for it or stop it" in refused.stderr


def test_sigterm_saves_and_the_same_command_goes_on(unbroken, pack_folder, recipes_file, tmp_path):
    out = shutil.copytree(unbroken[0], tmp_path / "paper")
    more = ("--set", "model3.epochs=400")
    process = start(*command(pack_folder, out, recipes_file, *more), cwd=tmp_path)
    metrics, end = out / "runs" / "model3" / "metrics.csv", time.monotonic() + 60
    while not ((out / "runs" / "replaced").exists() and metrics.exists()) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    shown = run(*command(pack_folder, out, recipes_file, *more, "--dry-run"), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    row = next(line for line in shown.stdout.splitlines() if line.startswith("model3"))
    assert "continues" in row
    assert "of 400" in row
    assert next(line for line in shown.stdout.splitlines() if line.startswith("model2")).split()[1] == "done"
