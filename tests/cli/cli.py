"""Running the command line as a user does: in a process of its own."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "cli", *map(str, arguments)]


def environment(**variables) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CXRDALI_")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def run(*arguments, cwd: Path, **variables) -> subprocess.CompletedProcess:
    """Exit code, stdout and stderr as text."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=300
    )


def start(*arguments, cwd: Path, **variables) -> subprocess.Popen:
    """The process, running; its output is thrown away."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def call(*arguments, cwd: Path) -> subprocess.CompletedProcess:
    """The same in this process, which has torch imported already: for the many mistakes a user can make."""
    from cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["cxrdali", *map(str, arguments)]),
        mock.patch.dict(os.environ, environment(), clear=True),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def done(folder: Path, *arguments) -> subprocess.CompletedProcess:
    """Called, and it went well."""
    result = call(*arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result


def refused(*arguments, cwd: Path, code: int, said: str) -> None:
    """Called, and it names what is wrong in one line, and leaves nothing."""
    before = sorted(cwd.iterdir())
    result = call(*arguments, cwd=cwd)
    assert result.returncode == code and said in result.stderr, result.stderr
    assert code == 2 or result.stderr.count("\n") <= 2  # the default place of the dataset, and the error
    assert "Traceback" not in result.stderr and sorted(cwd.iterdir()) == before
