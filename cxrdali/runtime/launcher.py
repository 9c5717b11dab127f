"""--gpus on one machine: the same command in several processes that meet in a private file, so that nobody else can
join, and that end with the process that started them.

torchrun's launcher is for many machines: its store listens on every network of the machine without a password, and
what it holds is unpickled.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from cxrdali.runtime.torchrun import MEETING, NAMES
from shards.errors import UserError

SECONDS_TO_STOP = 40  # after which processes that were asked to stop are ended
# that a process saves and ends: by users, by a terminal that goes away, and by clusters whose time is nearly up
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_PASSED_ON = (*ASKING, signal.SIGQUIT)
_LOOPBACK = dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), "lo")
_CAUSES = {
    signal.SIGKILL: "by the kernel if memory ran out",
    signal.SIGBUS: "as when a file is cut or overwritten while it is read: see `cxrdali verify`",
    signal.SIGSEGV: "as when a file is overwritten while it is read: see `cxrdali verify`",
}


def launch(command: Sequence[str], processes: int) -> None:
    """Run `command` (arguments of Python) in so many processes until all have ended.

    A signal to this process goes to all of them. If one fails, the others are ended.

    Raises:
        UserError: a signal ended one of them.
        SystemExit: one failed, having said why, or this process was asked to stop (128 + the signal).
    """
    workers: list[subprocess.Popen] = []
    with (
        noted(_PASSED_ON) as asked,
        ended(workers),
        tempfile.TemporaryDirectory(prefix="cxrdali-gpus-") as folder,  # which only this user can open
    ):
        for rank in range(processes):
            workers.append(_start(command, rank, processes, Path(folder) / "meeting"))
        failed = _watch(workers, asked)
    if failed is None:
        if asked:
            sys.exit(128 + asked[0])
        return
    code = workers[failed].returncode
    if code > 0:  # it has said why
        sys.exit(code)
    cause = _CAUSES.get(signal.Signals(-code))
    raise UserError(
        f"rank {failed} (process {workers[failed].pid}) was ended by {signal.Signals(-code).name}"
        f"{f' ({cause})' if cause else ''}, and the others with it; the same command continues"
    )


@contextmanager
def noted(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Inside, these signals are only noted, in the list and in their order."""
    asked: list[int] = []
    kept = [each for each in numbers if signal.getsignal(each) != signal.SIG_IGN]  # nohup's is to stay ignored
    before = {each: signal.signal(each, lambda number, _: asked.append(number)) for each in kept}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ended(workers: Sequence[subprocess.Popen]) -> Iterator[None]:
    """None of the workers, which may be started inside, lives on after it."""
    try:
        yield
    finally:
        for each in workers:
            each.kill()  # no effect on one that has ended


def _start(command: Sequence[str], rank: int, processes: int, meeting: Path) -> subprocess.Popen:
    """A process, and in its standard input a pipe that ends when this one does."""
    numbers = dict(zip(NAMES, map(str, (rank, processes, rank, processes)), strict=True))
    environment = {**os.environ, **_LOOPBACK, **numbers, MEETING: str(meeting)}
    return subprocess.Popen([sys.executable, *command], env=environment, stdin=subprocess.PIPE)


def _watch(workers: Sequence[subprocess.Popen], asked: Sequence[int]) -> int | None:
    """Return when all have ended: the rank that failed first, None if none did before it was asked to stop."""
    failed, end, running = None, None, True
    while running:
        codes = [each.poll() for each in workers]
        running = None in codes
        if failed is None and not asked and any(codes):
            # of several, one that was killed: the others say only that they lost it
            failed = min((code, rank) for rank, code in enumerate(codes) if code)[1]
        if end is None and (asked or failed is not None):
            end = time.monotonic() + SECONDS_TO_STOP
            for each in workers:
                each.send_signal(asked[0] if asked else signal.SIGTERM)
        elif end is not None and time.monotonic() > end:
            for each in workers:
                each.kill()
        time.sleep(0.1)
    return failed


def end_with_launcher() -> None:
    """In a process that `launch` started: stop as by SIGTERM when the launcher is gone, whatever ended it."""
    if MEETING in os.environ:
        threading.Thread(target=_outlive, args=(os.dup(0),), daemon=True).start()


def _outlive(pipe: int) -> NoReturn:
    os.read(pipe, 1)  # nothing is ever written: returns at the end of the launcher
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_STOP)
    os._exit(128 + signal.SIGTERM)
