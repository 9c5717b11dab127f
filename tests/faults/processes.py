"""Real processes that fail on purpose: packers to be killed, and children forked from a warm process."""

import builtins
import contextlib
import ctypes
import errno
import importlib
import io
import itertools
import json
import mmap
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.cli.cli import command, environment

ROOT = Path(__file__).resolve().parents[2]


class Packer:
    """`cxrdali shard` as a process group of its own; its output is in `said`."""

    def __init__(self, source: Path, out: Path, *options, log: Path):
        self.out, self.log = out, log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command("shard", "--source", source, "--out", out, *options),
                cwd=ROOT,
                env=environment(),
                start_new_session=True,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._before = self._shared()  # of a dead process with the same number

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def records(self) -> int:
        """Finished shards, as far as a folder in work shows them."""
        return len(list((self.out / ".packing" / "records").glob("[0-9]*.json")))

    def wait_for(self, reached) -> bool:
        """Until `reached()` holds (True) or the process has ended (False)."""
        end = time.monotonic() + 60
        while not reached():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < end, "nothing happened for a minute"
            time.sleep(0.002)
        return True

    def signal(self, number: int, group: bool = False) -> None:
        """To the process alone, as a scheduler might, or with its workers, as a power cut; it may have ended."""
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def alive(self) -> dict[int, str]:
        """{process id: state} of the group's members, the dead that nobody has asked for left out."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.process.pid and state != "Z":
                    found[int(stat.parent.name)] = state
        return found

    def workers(self) -> list[int]:
        """The processes that make shards: not the packer, not its workers' decoders, not Python's resource tracker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [
            pid for pid in map(int, children) if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def stop_worker(self, in_a_shard: bool) -> None:
        """SIGSTOP a worker that has a tar open, or one that has none."""
        end = time.monotonic() + 30
        for pid in itertools.cycle(self.workers()):
            assert time.monotonic() < end, "no worker was ever met so"
            os.kill(pid, signal.SIGSTOP)
            files = [file.readlink() for file in Path(f"/proc/{pid}/fd").iterdir()]
            if any(file.suffix == ".tar" for file in files) == in_a_shard:
                return
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.001)

    def end(self) -> None:
        """Kill whatever is left of the group, which leaves nothing in shared memory."""
        if self.alive():
            self.signal(signal.SIGCONT, group=True)
            self.signal(signal.SIGKILL, group=True)
        self.process.wait()
        assert self._shared() <= self._before, "names in shared memory that nobody removes"

    def _shared(self) -> set[str]:
        """Names in shared memory that hold the packer's process id."""
        names = (path.name for path in Path("/dev/shm").iterdir())
        return {name for name in names if str(self.process.pid) in re.split("[-_]", name)}


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (minus the signal that killed it), and what it said on both channels."""

    code: int
    said: str


class Warm:
    """A process that has everything imported and forks a child per command: a child costs 50 ms instead of a second.

    tmpfs: an empty folder that becomes a small disk of `size` bytes, which only this process and its children see,
    and others below `seen`. Nothing of it is left when the process ends.
    """

    def __init__(self, log: Path, tmpfs: Path | None = None, size: int = 0):
        self.log = log
        mount = 'mount -t tmpfs -o size="$1" cxrdali "$0" && shift && exec "$@"'
        disk = ["unshare", "-rm", "sh", "-c", mount, str(tmpfs), str(size)] if tmpfs else []
        self.process = subprocess.Popen(
            [*disk, sys.executable, "-m", "tests.faults.processes"],
            cwd=ROOT,
            env=environment(),
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready = self.process.stdout.readline() == "ready\n"
        self.place = tmpfs
        self.seen = Path(f"/proc/{self.process.pid}/root{tmpfs}")

    def cxrdali(self, *arguments, **fault) -> Ended:
        """One command line in a child. For `fault` see `_fail`."""
        return self._child({"arguments": [str(argument) for argument in arguments], "log": str(self.log), **fault})

    def _child(self, order: dict) -> Ended:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return Ended(code, self.log.read_text())

    def program(self, *arguments) -> Ended:
        """Any program in a child: it sees the small disk."""
        return self._child({"program": [str(argument) for argument in arguments], "log": str(self.log)})

    def remount(self, how: str) -> None:
        """Make its small disk read-only ("ro") or writable again ("rw")."""
        assert self.program("mount", "-o", f"remount,{how}", self.place).code == 0

    def end(self) -> str:
        """Stop it; what it said of its own."""
        return self.process.communicate()[1]


def _serve() -> None:
    """Fork a child per line of stdin and answer with its exit code. Starts no thread, so that forking is safe."""
    for name in ("cli.shard", "cli.verify", "shards.packing.pack", "shards.releases.release", "shards.packing.verify"):
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _child(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _child(log: str, arguments: list[str] | None = None, program: list[str] | None = None, **fault) -> None:
    """The command line `arguments` with a fault, or another program; never returns."""
    from cli.main import main

    null, said = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, place in ((null, 0), (said, 1), (said, 2)):
        os.dup2(descriptor, place)
    if program:
        os.execvp(program[0], program)
    sys.argv = ["cxrdali", *arguments]
    code = 0
    try:
        _fail(**fault)
        main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:  # as the interpreter would
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fail(
    unprivileged: bool = False,
    file_size: int | None = None,
    encode: int | None = None,
    calls: str | None = None,
    kill: tuple[int, str] | None = None,
    bad_medium: int | None = None,
) -> None:
    """What a child suffers.

    unprivileged: permission bits count, for root too. file_size: no file may grow over so many bytes. encode: the
    n-th JPEG encoding fails. calls: write a line per call that changes a folder to this file. kill: (n, "before" or
    "after"): die at the n-th of them. bad_medium: the n-th of them, an fsync, fails as on a broken disk.
    """
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if encode is not None:
        _fail_to_encode(encode)
    if calls or kill or bad_medium is not None:
        _watch_calls(calls, kill or (-1, ""), bad_medium)
    if unprivileged:
        drop_privileges()


def drop_privileges() -> None:
    """Give up every capability. Another user id would do too, but could not read a Python that only root can."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def _fail_to_encode(number: int) -> None:
    import simplejpeg

    whole, count = simplejpeg.encode_jpeg, mmap.mmap(-1, 8)  # of all processes that it is forked into

    def encode_jpeg(*arguments, **options):
        count[0] += 1
        if count[0] == number:
            raise RuntimeError("the encoder broke")
        return whole(*arguments, **options)

    simplejpeg.encode_jpeg = encode_jpeg


def _watch_calls(log: str | None, kill: tuple[int, str], bad_medium: int | None) -> None:
    """Count every call that changes a folder: names made, given and removed, files opened to write, closed, flushed."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if log else None
    number = -1

    def watched(name, function, *arguments, **options):
        nonlocal number
        number += 1
        mine = number  # a call may hold others
        if descriptor is not None:
            os.write(descriptor, f"{name} {' '.join(map(str, arguments))}\n".encode())
        if [mine, "before"] == list(kill):
            os.kill(os.getpid(), signal.SIGKILL)
        if mine == bad_medium and name == "fsync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        try:
            return function(*arguments, **options)
        finally:
            if [mine, "after"] == list(kill):
                os.kill(os.getpid(), signal.SIGKILL)

    def around(name, function):
        return lambda *arguments, **options: watched(name, function, *arguments, **options)

    for name in ("replace", "rename", "fsync", "unlink", "remove", "rmdir", "mkdir"):
        setattr(os, name, around(name, getattr(os, name)))
    whole = io.open

    def opened(path, mode="r", *arguments, **options):
        if not set(mode) & set("wax+"):
            return whole(path, mode, *arguments, **options)
        file = watched("open", whole, path, mode, *arguments, **options)
        close = file.close
        file.close = lambda: close() if file.closed else watched("close", lambda _: close(), path)
        return file

    io.open = builtins.open = opened


if __name__ == "__main__":
    _serve()
