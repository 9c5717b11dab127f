"""What `cxrdali watch` sees of runs that begin, train, validate, stop, are killed and end."""

import contextlib
import csv
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time

import pytest

from cxrdali.runs import live, watching
from cxrdali.runs.layout import CONFIG, LIVE, METRICS, PROGRESS, STUDY
from cxrdali.runs.settings import settings_of
from cxrdali.runs.steps import Book, Step
from cxrdali.runs.watching import watched
from cxrdali.train.hooks import Hooks
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.storage.files import only_one
from shards.storage.sealed import sealed_json
from tests.cli.cli import call, command, environment
from tests.faults.trainers import in_child, job_with_a_signal

STEPS, BATCH, EPOCHS = 3, 16, 3  # and one batch of validation an epoch


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": BATCH, "epochs": EPOCHS, "arch": "test_efficientnet", "device": "cpu"}
    return settings_of(**{**given, "pretrained": False, "track": ("none",), **changes})


def rows_of(run):
    return [
        {name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader((run / METRICS).open())
    ]


@pytest.fixture(scope="module")
def seen(dataset, tmp_path_factory):
    """A run that was stopped in its second epoch (a copy, "stopped", lies beside it) and then finished, and what was
    seen of it at every moment."""
    out, found = tmp_path_factory.mktemp("runs") / "one", []

    def look():
        found.append(watched(out))
        return signal.SIGTERM if len(found) == STEPS + 3 else 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "SECONDS", 0.0)
        with pytest.raises(Stopped):
            train(settings(), dataset, out, hooks=Hooks(should_stop=look))
        found.append(watched(out))
        shutil.copytree(out, out.parent / "stopped")
        train(settings(), dataset, out, hooks=Hooks(should_stop=lambda: found.append(watched(out))))
    found.append(watched(out))
    return out, found


def test_every_moment_of_a_run(seen):
    out, found = seen
    first = [("training", 1, step * BATCH) for step in (1, 2)] + [("validating", 1, 48), ("validating", 1, 48)]
    second = [("training", 2, 16), ("training", 2, 32)]
    rest = [("validating", 2, 48)] * 2 + [("training", 3, 16), ("training", 3, 32)] + [("validating", 3, 48)] * 2
    at = [(each.state, each.live.epoch, each.live.position) for each in found if each.live]
    assert at == first + second + rest
    assert [each.state for each in found if not each.live] == ["stopped", "finished"]
    assert {each.live.of for each in found if each.live} == {STEPS * BATCH}
    assert not (out / LIVE).exists() and not list(out.glob(".live*"))


def test_its_last_numbers_and_its_best_are_those_of_its_tables(seen):
    out, found = seen
    rows = rows_of(out)
    for each in found[4:]:
        assert each.last["mAP"] == rows[each.progress.epoch - 1]["mAP"]
    end = found[-1]
    assert end.progress.best_score == max(row["mAP"] for row in rows[: end.progress.epoch])
    assert end.last == rows[-1] and end.seconds_left == 0.0
    assert end.rate == rows[-1]["images_per_second"]
    assert end.waiting == rows[-1]["wait_seconds"] / rows[-1]["train_seconds"]
    assert all(each.last is None and each.progress.epoch == 0 for each in found[:4])


def test_the_time_left_is_that_of_the_epochs_so_far_without_the_first(seen):
    out, found = seen
    one, two, _ = (row["train_seconds"] + row["val_seconds"] for row in rows_of(out))
    for each in found[:4]:  # of the first one: by its own pace
        expected = EPOCHS * each.live.train_seconds * 48 / each.live.position - each.live.train_seconds
        assert each.seconds_left == pytest.approx(expected)
    assert found[4].seconds_left == pytest.approx(2 * one - found[4].live.train_seconds)
    assert found[-3].seconds_left == pytest.approx(max(0, two - found[-3].live.train_seconds))
    assert found[6].seconds_left is None and found[6].state == "stopped"


def test_a_killed_run_is_called_so_until_it_goes_on(pack_folder, tmp_path):
    """In the second epoch: after its three steps, its validation and the second step."""
    arguments = (pack_folder, tmp_path, tmp_path / "log")
    assert in_child(job_with_a_signal, signal.SIGKILL, *arguments, STEPS + 1 + 2) == -signal.SIGKILL
    killed = watched(tmp_path / "stage1")
    assert (killed.state, killed.progress.epoch, killed.seconds_left) == ("killed", 1, None)
    said = call("watch", tmp_path / "stage1", "--once", cwd=tmp_path).stdout
    assert "stage1: killed" in said and "the same command continues it" in said


def test_a_damaged_heartbeat_is_none(seen, tmp_path):
    out, _ = seen
    shutil.copytree(out, tmp_path / "run")
    for damage in ("", "{", '{"epoch": "x"}', "[1]", 5000 * " "):
        (tmp_path / "run" / LIVE).write_text(damage)
        assert live.read_live(tmp_path / "run") is None
        assert watched(tmp_path / "run").state == "finished"


def test_where_it_cannot_be_written_training_goes_on(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "SECONDS", 0.0)
    (tmp_path / "elsewhere").write_text("the user's")
    out = tmp_path / "run"

    def in_the_way(row):
        (out / ".live.new").unlink(missing_ok=True)
        (out / ".live.new").symlink_to(tmp_path / "elsewhere")

    train(settings(epochs=2), dataset, out, hooks=Hooks(on_epoch=in_the_way))
    assert (tmp_path / "elsewhere").read_text() == "the user's" and watched(out).state == "finished"


def test_a_lock_is_looked_at_and_not_taken(tmp_path):
    lock = tmp_path / ".lock"
    assert not watching.is_held(lock) and not lock.exists()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert watching.is_held(lock)
    assert not watching.is_held(lock)


def test_a_run_that_prepares_its_first_epoch_is_one(tmp_path):
    """It has no config.json yet: computing features may take long."""
    (tmp_path / "runs" / "new").mkdir(parents=True)
    (tmp_path / "runs" / "old").mkdir()
    with only_one(tmp_path / "runs" / "new" / ".lock", "training into it"):
        assert watched(tmp_path / "runs" / "new").state == "starts or saves"
        said = call("watch", tmp_path / "runs" / "new", "--once", cwd=tmp_path)
        assert said.returncode == 0 and "new: starts or saves" in said.stdout
    assert call("watch", tmp_path / "runs" / "new", "--once", cwd=tmp_path).returncode == 1


# ---------------------------------------------------------------- the screen


@pytest.fixture
def runs(seen, tmp_path):
    """Of a study: a finished run, a damaged one, one that is not there yet, with names that mean harm."""
    for name in ("model2", "model10", "\x1b[31mred"):
        shutil.copytree(seen[0], tmp_path / "study" / "runs" / name)
    (tmp_path / "study" / "runs" / "later").mkdir()
    (tmp_path / "study" / "runs" / "model10" / PROGRESS).write_text("{")
    study, wait = tmp_path / "study", lambda: (tmp_path / "study" / "made").touch()
    steps = [Step(name, ("made",), {}, (), wait) for name in ("train model2", "train model10")]
    Book(study).run(steps)
    (study / STUDY).write_bytes(sealed_json({"steps": [*(step.name for step in steps), "predict model2"]}))
    return tmp_path / "study"


@pytest.mark.parametrize("columns", [80, 60])
def test_a_folder_has_a_line_for_each_run(runs, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    ended = call("watch", runs, "--once", cwd=tmp_path)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0 and max(map(len, lines)) <= columns and "\x1b" not in ended.stdout
    names = [line.split()[0] for line in lines[1:] if re.search(r" of 3 |unreadable", line) and "step" not in line]
    assert names == ["\\x1b[31mred", "model2", "model10"]
    assert ("waiting" in lines[0]) == (columns == 80)
    said = " ".join(ended.stdout.split())
    assert "1 folder without a run yet" in said and "2 of 3 steps of the study done" in said
    assert "progress.json: not as `cxrdali train` writes it" in re.sub(r"(?<=[\w/.-])\n(?=\S)", "", said)


def test_one_run_says_all_of_it(seen, tmp_path, monkeypatch):
    out, found = seen
    monkeypatch.setenv("COLUMNS", "60")
    said = call("watch", out, "--once", cwd=tmp_path).stdout
    last, words = rows_of(out)[-1], " ".join(said.split())
    losses = f"train_loss {last['train_loss']:.4f}, val_loss {last['val_loss']:.4f}"
    assert said.splitlines()[0] == "run    one: finished" and max(map(len, said.splitlines())) <= 60
    assert f"epoch 3 of 3 rate {last['images_per_second']:,.0f} images/s" in words
    assert f"last epoch 3: {losses}, mAP {last['mAP']:.4f}, LRAP {last['LRAP']:.4f}" in words
    assert f"best epoch {found[-1].progress.best_epoch}, mAP {found[-1].progress.best_score:.4f}" in words


def test_what_is_no_run_is_one_line(seen, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copytree(seen[0], tmp_path / "damaged")
    (tmp_path / "damaged" / CONFIG).write_text("{")
    for name, words in (("empty", "no run"), ("nowhere", "no run"), ("damaged", "config.json: not a run's settings")):
        ended = call("watch", tmp_path / name, cwd=tmp_path)
        assert ended.returncode == 1 and ended.stdout == "" and ended.stderr.count("\n") == 1
        assert f"error: {tmp_path / name}" in ended.stderr and words in ended.stderr


def on_a_terminal(run, act):
    """`cxrdali watch` on a terminal of 60 columns; `act` is called once the run is on it. Its code, what it wrote."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = subprocess.Popen(
        command("watch", run, "--every", 0.2),
        stdin=end,
        stdout=end,
        stderr=end,
        env=environment(TERM="xterm"),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(end)
    said, deadline = b"", time.monotonic() + 60
    with contextlib.suppress(OSError):  # the end of a terminal whose process has ended
        while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            said += os.read(terminal, 65536)
            if act and b"stopped" in said:
                act(terminal)
                act = None
    os.close(terminal)
    process.kill()
    return process.wait(), said.decode()


@pytest.mark.slow
def test_on_a_terminal_ctrl_c_ends_it(seen, tmp_path):
    code, said = on_a_terminal(seen[0].parent / "stopped", lambda terminal: os.write(terminal, b"\x03"))
    assert code == 0 and "stopped: stopped" in said and "Traceback" not in said and said.endswith("\x1b[?25h")


@pytest.mark.slow
def test_on_a_terminal_it_changes_and_ends_when_the_run_has(seen, tmp_path):
    shutil.copytree(seen[0].parent / "stopped", tmp_path / "run")
    code, said = on_a_terminal(
        tmp_path / "run", lambda _: shutil.copytree(seen[0], tmp_path / "run", dirs_exist_ok=True)
    )
    assert code == 0 and said.index("run: stopped") < said.index("run: finished") < said.index("epoch  3 of 3")


def test_in_a_pipe_it_prints_until_the_run_has_ended(seen, tmp_path):
    """No escape codes, and each look is printed once."""
    process = subprocess.run(
        command("watch", seen[0]), env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0 and process.stdout.count("finished") == 1 and "\x1b" not in process.stdout
