"""--jobs, --gpus and --part: the same command as several workers on one folder, which share the steps by locks."""

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import click

_JOBS = click.option(
    "--jobs", type=click.IntRange(1), metavar="N", help="Do N runs side by side, each in a process.  [default: 1]"
)
_GPUS = click.option(
    "--gpus", metavar="LIST", help="Do a run on each of these GPUs side by side, as CUDA counts them: 0,1."
)
_PART = click.option(
    "--part",
    metavar="I/N",
    help="Be worker I of N in a shared folder (docs/studies.md): begin with every Nth run, then help the others.",
)
_WORKER = "CXRDALI_STUDY_PART"  # of a process that `shared_out` started


def options(command: Callable) -> Callable:
    return functools.reduce(lambda made, option: option(made), (_PART, _GPUS, _JOBS), command)


def is_worker() -> bool:
    """Whether `share_out` of another process started this one."""
    return _WORKER in os.environ


def part(given: str | None) -> str:
    """Which worker this process is, as --part has it."""
    return os.environ.get(_WORKER) or given or "1/1"


def share_out(jobs: int | None, gpus: str | None, given: str | None) -> bool:
    """Run this very command in several processes, if that is asked for, until they have ended; returns whether it was.

    given: its own part.

    What they say is shown with their numbers. What one leaves that was killed is left to this process. Raises
    SystemExit if this process was asked to stop: they are, too.
    """
    from cxrdali.studies.work import SINCE, Part

    devices = [each.strip() for each in gpus.split(",")] if gpus else []
    if not all(devices) or len(set(devices)) < len(devices):
        raise click.UsageError(f"--gpus {gpus}: write each GPU once, with commas between them, such as 0,1")
    if jobs is not None and devices and jobs != len(devices):
        raise click.UsageError(f"--jobs {jobs}: --gpus {gpus} are {len(devices)}, with a run on each; leave --jobs out")
    places: list[dict[str, str]] = [{"CUDA_VISIBLE_DEVICES": each} for each in devices] or [{}] * (jobs or 1)
    if is_worker() or places == [{}]:
        return False
    os.environ.setdefault(SINCE, str(time.time()))
    whole = Part.read(part(given))
    for place, chosen in enumerate(places):
        chosen = places[place] = dict(chosen)
        chosen[_WORKER] = f"{(whole.number - 1) * len(places) + place + 1}/{whole.of * len(places)}"
    _wait([_start(each) for each in places])
    os.environ.update({key: value for key, value in places[0].items() if key != _WORKER})
    return True


def _start(chosen: dict[str, str]) -> subprocess.Popen:
    # what was started: a folder or file named cli, where the user is, must not come in between
    command = ["-m", "cli"] if sys.modules["__main__"].__spec__ else [sys.argv[0]]
    return subprocess.Popen(
        [sys.executable, *command, *sys.argv[1:]], env={**os.environ, **chosen}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip


def _wait(workers: list[subprocess.Popen]) -> None:
    """Until all have ended; a signal to this process goes to all of them."""
    from cxrdali.runtime.launcher import ASKING, ended, noted

    shown = [threading.Thread(target=_show, args=(each, place)) for place, each in enumerate(workers, 1)]
    passed_on = 0
    with noted(ASKING) as asked, ended(workers):
        for each in shown:
            each.start()
        while any(each.poll() is None for each in workers):
            time.sleep(0.1)
            for number in asked[passed_on:]:
                for each in workers:
                    each.send_signal(number)
            passed_on = len(asked)
    for each in shown:
        each.join()
    if asked:
        sys.exit(128 + asked[0])


def _show(worker: subprocess.Popen, place: int) -> None:
    for line in worker.stdout or ():
        if line.strip():
            click.echo(f"{place}| {line.rstrip()}")
