"""What a log of a command holds: text that any terminal shows, no colours and no frames of progress bars."""

import subprocess

import pytest

from tests.cli.cli import command, environment
from tests.faults.trainers import train_command

pytestmark = pytest.mark.slow

FRAMES = (b"\r", b"\x1b", b"it/s", b"%|", b" images/s]", b"?, ?")


def log_of(folder, *arguments, **variables) -> bytes:
    """Output and errors of a command in one file, as a shell's `> log 2>&1` has it."""
    with (folder / "log").open("wb") as log:
        done = subprocess.run(
            command(*arguments), cwd=folder, env=environment(**variables), stdout=log, stderr=log, timeout=300
        )
    found = (folder / "log").read_bytes()
    assert done.returncode == 0, found
    return found


def test_a_redirected_log_holds_no_frames_no_colours_and_no_other_than_ascii(pack_folder, release_folder, tmp_path):
    logs = {
        name: log_of(tmp_path, *arguments, PYTHONIOENCODING="ascii", NO_COLOR="1")
        for name, arguments in {
            "synth": ("synth", "--studies", 6, "--size", 64, "--out", "release", "--jobs", 2),
            "shard": ("shard", "--source", release_folder, "--out", "pack", "--sizes", 48, "--jobs", 2),
            "verify": ("verify", "pack", "--deep", "--jobs", 2),
            "inspect": ("inspect", "pack", "--html", "inspect.html", "--images"),
            "doctor": ("doctor", "--data", pack_folder),
            "train": train_command(pack_folder, "run"),
            "evaluate": ("evaluate", "run/val_predictions.parquet", "--draws", 50, "--data", pack_folder),
        }.items()
    }
    for name, log in logs.items():
        assert log.isascii() and not any(mark in log for mark in FRAMES), (name, log)
    assert b"epoch 2/2" in logs["train"] and logs["doctor"].endswith(b"ready\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_path_that_the_terminal_cannot_show_is_no_error(tmp_path, encoding):
    out = "mus\u00e9e \u20ac"
    said = log_of(tmp_path, "synth", "--studies", 2, "--size", 64, "--out", out, "--jobs", 1, PYTHONIOENCODING=encoding)
    assert (b"mus\xe9e \\u20ac" if encoding == "latin-1" else out.encode()) in said and b"Error" not in said
