"""Errors that say that memory is missing, and a process that has little of it."""

import resource
import subprocess

import pytest

from cxrdali.runtime.limits import out_of_memory
from shards.errors import UserError
from tests.cli.cli import command, environment
from tests.faults.trainers import train_command


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("libx.so: failed to map segment from shared object: Operation not permitted"), False),
        (RuntimeError("can't start new thread"), True),
        (UserError("the size 1 is not stored"), False),
        (FileNotFoundError(2, "No such file or directory"), False),
        (None, False),
    ],
)
def test_what_says_that_memory_is_missing(error, lacks):
    assert bool(out_of_memory(error)) == lacks
    outer = UserError("DALI failed")
    outer.__cause__ = error
    assert out_of_memory(outer) is (error if lacks else None)


@pytest.mark.slow
def test_too_few_addresses_are_one_line(pack_folder, tmp_path):
    done = subprocess.run(
        command(*train_command(pack_folder, tmp_path / "run")),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: not enough memory (lib") and "raise the limit (ulimit -v" in said
    assert not (tmp_path / "run").exists()
