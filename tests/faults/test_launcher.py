"""--gpus: who can reach the processes while they run, and how they end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from cxrdali.runs import layout as runs
from cxrdali.runtime.launcher import launch
from shards.errors import UserError
from tests.cli.cli import environment
from tests.faults.ranks import line

pytestmark = pytest.mark.slow

LIMIT = 60  # seconds in which a run ends after one of its processes died


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("pass", None),
        ("import os, sys; sys.exit(7 * (os.environ['RANK'] == '1'))", 7),
        # the other one is ended, or this would last a minute
        ("import os, sys, time; os.environ['RANK'] == '0' and time.sleep(60); sys.exit(3)", 3),
        # the launcher is asked to stop, and passes it on
        ("import os, signal, time; os.environ['RANK'] == '0' and os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)",
         128 + signal.SIGTERM),
        ("import os, signal, time; os.environ['RANK'] == '0' and os.kill(os.getppid(), signal.SIGUSR1); time.sleep(60)",
         128 + signal.SIGUSR1),
    ],
)  # fmt: skip
def test_a_launcher_ends_as_its_processes_do(script, code):
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    begun = time.monotonic()
    if code is None:
        launch(["-c", script], 2)
    else:
        with pytest.raises(SystemExit) as ended:
            launch(["-c", script], 2)
        assert ended.value.code == code
    assert time.monotonic() - begun < 20
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == handlers


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, r"ended by SIGKILL \(by the kernel if memory ran out\)"),
        (
            signal.SIGBUS,
            r"ended by SIGBUS \(as when a file is cut or overwritten while it is read: see `cxrdali verify`",
        ),
        (signal.SIGUSR1, r"ended by SIGUSR1, and the others with it; the same command continues"),
    ],
)
def test_a_process_that_a_signal_ended_is_named(number, said):
    script = f"import os, time; os.environ['RANK'] == '2' and os.kill(os.getpid(), {int(number)}); time.sleep(60)"
    with pytest.raises(UserError, match=rf"rank 2 \(process \d+\) was {said}"):
        launch(["-c", script], 3)


def test_nobody_can_reach_the_processes_and_they_end_with_a_killed_launcher(pack_folder, tmp_path):
    out = tmp_path / "run"
    words = [sys.executable, "-m", "cli", *map(str, line("--gpus", 2, pack=pack_folder, out=out, epochs=5000))]
    (tmp_path / "tmp").mkdir()
    process = started(words, out, 1, tmp_path)
    ranks = ranks_of(process)
    assert sorted(ranks) == [0, 1]
    listening = [
        each.laddr
        for one in (psutil.Process(process.pid), *ranks.values())
        for each in one.net_connections()
        if each.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} == {"127.0.0.1"}  # gloo's own
    for each in ranks.values():  # also where the machine's name is another address
        assert {each.environ()[name] for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")} == {"lo"}
    for address in listening:  # what a stranger of this machine says does not disturb them
        with socket.create_connection(address) as stranger:
            stranger.send(b"x" * 100)
    (meeting,) = (tmp_path / "tmp").glob("cxrdali-gpus-*")
    assert meeting.stat().st_mode & 0o077 == 0

    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(ranks.values(), timeout=30)
    for each in alive:
        each.kill()
    assert not alive
    assert process.stderr.read().endswith("stopped by SIGTERM; saved, the same command continues\n")
    done = torch.load(out / runs.LAST, weights_only=True)["epoch"]
    process = started(words, out, done + 1, tmp_path)
    process.send_signal(signal.SIGUSR1)  # as SLURM warns
    assert process.wait(LIMIT) == 128 + signal.SIGUSR1
    assert process.stderr.read().splitlines()[-1] == "stopped by SIGUSR1; saved, the same command continues"
    assert torch.load(out / runs.LAST, weights_only=True)["epoch"] > done


def ranks_of(process) -> dict[int, psutil.Process]:
    """The started processes of a launcher by rank."""
    found = {}
    for each in psutil.Process(process.pid).children(recursive=True):
        if "train" in each.cmdline() and "RANK" in (variables := each.environ()):
            found[int(variables["RANK"])] = each
    return found


def started(words, out, epoch, cwd):
    """The command's process, once its run has finished this epoch."""
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=environment(TMPDIR=str(cwd / "tmp")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + LIMIT
    while not (out / runs.METRICS).exists() or len((out / runs.METRICS).read_text().splitlines()) <= epoch:
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.05)
    return process


def test_a_process_that_dies_ends_the_run_and_the_same_command_continues(pack_folder, tmp_path):
    """By the installed command, where a file of the user's is named like a package of ours."""
    out, epochs = tmp_path / "run", 30
    (tmp_path / "cli.py").write_text("raise SystemExit('not the command')")
    (tmp_path / "tmp").mkdir()
    words = [Path(sys.executable).with_name("cxrdali"), *line("--gpus", 2, pack=pack_folder, out=out, epochs=epochs)]
    words = [str(word) for word in words]
    process = started(words, out, 1, tmp_path)
    victim = ranks_of(process)[1]
    os.kill(victim.pid, signal.SIGKILL)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 1 and "Traceback" not in said
    assert f"error: rank 1 (process {victim.pid}) was ended by SIGKILL" in said
    assert "the same command continues" in said
    done = torch.load(out / runs.LAST, weights_only=True)["epoch"]
    assert 1 <= done < epochs

    process = started(words, out, done + 1, tmp_path)
    # as a cluster ends a job: every process of it is signalled, and the launcher passes it on once more
    for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        each.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1].endswith("stopped by SIGTERM; saved, the same command continues"), said
    assert "rank 1" not in said and "torch/distributed" not in said
    left = [path.name for path in (tmp_path / "tmp").iterdir()]
    assert not [name for name in left if name.startswith(("cxrdali", "torchelastic"))], left
    state = torch.load(out / runs.LAST, weights_only=True)
    done, position = state["epoch"], state["position"]
    assert position > 0  # within an epoch, or before its validation

    ended = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert f"continues after epoch {done} and {position} images of the next" in ended.stdout
    assert ended.stdout.count("finished; best epoch") == 1
    epochs_seen = [row["epoch"] for row in torch.load(out / runs.LAST, weights_only=True)["metrics"]]
    assert epochs_seen == list(range(1, epochs + 1))
