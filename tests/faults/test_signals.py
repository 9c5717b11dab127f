"""Signals of clusters, and a terminal that goes away: the run saves. What a terminal shows of it."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios

import pytest
import torch

from cxrdali.runs.layout import LAST
from cxrdali.runtime.launcher import ASKING
from cxrdali.train.tracking import Tracking
from tests.cli.cli import command, environment
from tests.faults.trainers import at_moment, child, command_line, differences, train_command

pytestmark = pytest.mark.slow

IN_VALIDATION = 4  # the moment after the first epoch's three steps and its batch of validation


def signalled(log, arguments, numbers, ignored=()):
    """For a child: the command line that is sent these signals, one after the other, in its first validation."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    patch = pytest.MonkeyPatch()
    at_moment(patch, IN_VALIDATION, lambda: [os.kill(os.getpid(), number) for number in numbers])
    command_line(log, arguments)


def signalled_before_the_first_step(log, arguments, number):
    """For a child: the command line that is sent a signal when it has said what it will train."""
    begins = Tracking.__enter__

    def enter(tracking):
        os.kill(os.getpid(), number)
        return begins(tracking)

    pytest.MonkeyPatch().setattr(Tracking, "__enter__", enter)
    command_line(log, arguments)


def ended(log, arguments, numbers=(), ignored=()):
    process = child(signalled, log, arguments, numbers, ignored)
    process.join(60)
    process.kill()
    return process.exitcode, log.read_text()


@pytest.fixture(scope="module")
def unbroken(pack_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert ended(folder / "log", train_command(pack_folder, folder / "run"))[0] == 0
    return folder / "run"


@pytest.mark.parametrize("number", ASKING, ids=lambda each: each.name)
def test_each_saves_within_validation_and_the_run_goes_on_to_the_same_end(unbroken, pack_folder, tmp_path, number):
    out, log = tmp_path / "run", tmp_path / "log"
    code, said = ended(log, train_command(pack_folder, out), [number])
    assert code == 128 + number
    assert said.splitlines()[-1] == f"stopped by {number.name}; saved, the same command continues"
    state = torch.load(out / LAST, weights_only=True)
    assert (state["epoch"], state["position"]) == (0, 48)
    if number == signal.SIGUSR1:
        code, said = ended(log, train_command(pack_folder, out))
        assert code == 0 and "continues after epoch 0 and 48 images of the next" in said
        assert differences(unbroken, out) == []


def test_between_the_first_line_and_the_first_step_too(pack_folder, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    process = child(signalled_before_the_first_step, log, train_command(pack_folder, out), signal.SIGUSR1)
    process.join(60)
    process.kill()
    assert process.exitcode == 128 + signal.SIGUSR1
    assert log.read_text().splitlines()[-1] == "stopped by SIGUSR1; saved, the same command continues"
    state = torch.load(out / LAST, weights_only=True)
    assert (state["epoch"], state["position"]) == (0, 16)


def test_a_shell_that_goes_away_hangs_up_twice(pack_folder, tmp_path):
    code, said = ended(tmp_path / "log", train_command(pack_folder, tmp_path / "run"), [signal.SIGHUP] * 2)
    assert code == 128 + signal.SIGHUP and "stopped by SIGHUP; saved" in said
    assert (tmp_path / "run" / LAST).exists()


def test_after_any_of_them_a_cluster_or_a_user_in_haste_ends_it_at_once(pack_folder, tmp_path):
    arguments = train_command(pack_folder, tmp_path / "run")
    code, _ = ended(tmp_path / "log", arguments, [signal.SIGUSR1, signal.SIGTERM])
    assert code == -signal.SIGTERM and not (tmp_path / "run" / LAST).exists()


def test_what_nohup_ignores_stays_ignored(unbroken, pack_folder, tmp_path):
    code, said = ended(
        tmp_path / "log", train_command(pack_folder, tmp_path / "run"), [signal.SIGHUP], ignored=[signal.SIGHUP]
    )
    assert code == 0 and "stopped" not in said and differences(unbroken, tmp_path / "run") == []


def test_a_terminal_shows_bars_and_when_it_goes_away_the_run_is_saved(pack_folder, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    arguments = [*train_command(pack_folder, tmp_path / "run"), "--epochs", 500]
    process = subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    seen = b""
    while b"epoch 4/500: " not in seen:
        seen += os.read(ours, 1 << 16)
    os.close(ours)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert re.search(rb"\repoch \d+/500: +\d+%\|.*\| \d+/48 \[.* images/s", seen)
    state = torch.load(tmp_path / "run" / LAST, weights_only=True)
    assert state["epoch"] >= 3 and (state["position"] or state["epoch"] > 3)
