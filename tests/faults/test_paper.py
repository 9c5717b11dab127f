"""`cxrdali paper` killed with SIGKILL at many moments: the same command goes on and ends with the same results."""

import os
import re
import shutil
import signal
import time

import pytest

from cxrdali.predictions import read
from cxrdali.runs import folder as runs
from shards.storage import files
from shards.storage.files import only_one
from tests.cxrdali.studies.test_paper import TINY
from tests.faults.trainers import child, command_line, error_line, in_child

# of fork, in a process with threads
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

# enough to be killed in training, predicting, pooling, learning views and evaluating
MODELS = "0,2,3,5"
# Renames between two kills: more than a training has before its first checkpoint, so that every process gets further
STRIDE = 31


@pytest.fixture(scope="module")
def recipes_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    file.write_text(TINY)
    return file


@pytest.fixture(scope="module")
def paper(pack_folder, recipes_file):
    """The command line into a folder."""

    def command(out, *more):
        return ["paper", "--data", pack_folder, "--out", out, "--recipes", recipes_file, "--models", MODELS,
                "--draws", 0, "--labels", "cxr-lt-2023", "--set", "device=cpu", *more]  # fmt: skip

    return command


@pytest.fixture(scope="module")
def unbroken(paper, tmp_path_factory):
    """A folder that was never interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert in_child(command_line, folder / "log", paper(folder / "paper")) == 0, (folder / "log").read_text()
    return folder / "paper"


def results(out):
    """Everything that people look at, as numbers and text."""
    tables = {path.name: read(path) for path in sorted((out / "predictions").glob("*.parquet"))}
    return {
        "tables": {name: (list(table.ids["image_id"]), table.values.tobytes()) for name, table in tables.items()},
        "evaluations": {path.name: path.read_bytes() for path in (out / "evaluations").iterdir()},
        "views": (out / "views.json").read_bytes(),
        "submission": (out / "submission.zip").read_bytes(),
    }


def killed(log, arguments, number, when):
    """For a child: the command that is killed at its n-th rename, "before" or "after" it."""
    whole, left = files.publish, number

    def publish(aside, final):
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        whole(aside, final)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    files.publish = runs.publish = publish
    command_line(log, arguments)


def test_killed_again_and_again_it_ends_where_the_unbroken_one_did(unbroken, paper, tmp_path):
    out, log, kills, code = tmp_path / "paper", tmp_path / "log", 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        assert kills < 30, "it gets no further"
        # one rename further each time: else the kills would fall on the same kind of file
        code = in_child(killed, log, paper(out), STRIDE + kills % 5, ("before", "after")[kills % 2])
        kills += code == -signal.SIGKILL
    assert code == 0, log.read_text()
    assert kills >= 4
    assert results(out) == results(unbroken)
    assert not list(out.rglob("*.part"))
    assert in_child(command_line, log, paper(out)) == 0
    assert re.search(r"all \d+ steps were done before", log.read_text())


def test_another_process_in_the_same_folder_is_refused(unbroken, paper, tmp_path):
    with only_one(unbroken / ".lock", "working in it"):
        code = in_child(command_line, tmp_path / "log", paper(unbroken))
    error_line(code, (tmp_path / "log").read_text(), "paper: another process is working in it; wait for it or stop it")


def test_sigterm_saves_and_the_same_command_goes_on(unbroken, paper, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "paper")
    more = ("--set", "model3.epochs=400")
    process = child(command_line, tmp_path / "log", paper(out, *more))
    metrics, end = out / "runs" / "model3" / "metrics.csv", time.monotonic() + 60
    while not ((out / "runs" / "replaced").exists() and metrics.exists()) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; saved, the same command continues" in (tmp_path / "log").read_text()
    done = len(metrics.read_text().splitlines()) - 1
    assert in_child(command_line, tmp_path / "dry", paper(out, *more, "--dry-run")) == 0
    rows = {line.split()[0]: line for line in (tmp_path / "dry").read_text().splitlines() if line.startswith("model")}
    assert "continues" in rows["model3"]
    assert f"{400 - done} of 400" in rows["model3"]
    assert rows["model2"].split()[1] == "done"
    # other settings begin anew: nothing of what is there counts
    anew = paper(out, "--set", "model3.epochs=50", "--dry-run")
    assert in_child(command_line, tmp_path / "dry", anew) == 0
    row = next(line for line in (tmp_path / "dry").read_text().splitlines() if line.startswith("model3"))
    assert "50 of 50" in row
    assert " + " not in row
    # ... and what is oversampled is open while the model whose AP decides is to be trained again
    anew = paper(out, "--set", "model2.lr=5e-4", "--dry-run")
    assert in_child(command_line, tmp_path / "dry", anew) == 0
    row = next(line for line in (tmp_path / "dry").read_text().splitlines() if line.startswith("model3"))
    assert " + " in row
    assert "1 of 1" in row
