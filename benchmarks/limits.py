"""A slow disk and a small memory, made on purpose: what the kernel can do to a process, and only as root.

The disk is a file with ext4 in it on a loop device, past the page cache of the disk below and with the read-ahead that
most disks have; a control group limits what a process reads from it, in bytes and in operations, as a cloud volume
does. The memory limit is a control group's too, and the page cache counts towards it. Version 1 of control groups and
version 2 both serve (the committed results come from version 1).
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
READ_AHEAD_KIB = 128  # the kernel's default for a disk
_V2 = CGROUPS / "cgroup.controllers"


@dataclass(frozen=True)
class Disk:
    """folder: where it is mounted; device: "major:minor" of its block device."""

    folder: Path
    device: str


@dataclass(frozen=True)
class Limits:
    """Of one process and its threads; None: none. device: the disk that the two rates are about, "major:minor"."""

    device: str | None = None
    read_bytes_per_second: int | None = None
    read_operations_per_second: int | None = None
    memory_bytes: int | None = None


@contextmanager
def loop_disk(image: Path, size: int) -> Iterator[Disk]:
    """A disk of `size` bytes in the file `image`, mounted beside it. Raises OSError where that is not allowed."""
    folder = image.with_suffix(".mount")
    with ExitStack() as stack:
        folder.mkdir()
        stack.callback(folder.rmdir)
        with image.open("wb") as file:
            file.truncate(size)
        stack.callback(image.unlink)
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        device = _run("losetup", "--find", "--show", "--direct-io=on", str(image))
        stack.callback(_run, "losetup", "--detach", device)
        _run("blockdev", "--setra", str(READ_AHEAD_KIB * 2), device)  # in sectors of 512 bytes
        _run("mount", device, str(folder))
        stack.callback(_run, "umount", str(folder))
        numbers = Path(device).stat().st_rdev
        yield Disk(folder, f"{os.major(numbers)}:{os.minor(numbers)}")


@contextmanager
def limited(limits: Limits) -> Iterator[Callable[[], None]]:
    """What a new process calls first, to be held to the limits. Raises OSError where that is not allowed."""
    with ExitStack() as stack:
        groups = [stack.enter_context(_group(*wanted)) for wanted in _settings(limits)]

        def join() -> None:
            for group in groups:
                (group / "cgroup.procs").write_text("0")  # 0: whoever writes

        yield join


def drop_from_cache(folder: Path) -> None:
    """Let the kernel forget every file under `folder` that no process has mapped: what is read next comes cold."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # pages not written yet cannot be dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def cached_share(files: Sequence[Path]) -> float:
    """The part of some files that is in the page cache, by a look at every 64 KiB; nothing is read."""
    looks = hits = 0
    for path in files:
        with path.open("rb", buffering=0) as file:
            for place in range(0, path.stat().st_size, 2**16):
                looks += 1
                try:
                    hits += os.preadv(file.fileno(), [bytearray(1)], place, os.RWF_NOWAIT)
                except BlockingIOError:  # it would have to be read
                    continue
    return hits / max(looks, 1)


def _settings(limits: Limits) -> Iterator[tuple[str, dict[str, str]]]:
    """(controller, what to write into which of its files)"""
    if limits.read_bytes_per_second is not None:
        per_second, operations = limits.read_bytes_per_second, limits.read_operations_per_second
        if _V2.exists():
            yield "io", {"io.max": f"{limits.device} rbps={per_second} riops={operations}"}
        else:
            yield (
                "blkio",
                {
                    "blkio.throttle.read_bps_device": f"{limits.device} {per_second}",
                    "blkio.throttle.read_iops_device": f"{limits.device} {operations}",
                },
            )
    if limits.memory_bytes is not None:
        yield "memory", {"memory.max" if _V2.exists() else "memory.limit_in_bytes": str(limits.memory_bytes)}


@contextmanager
def _group(controller: str, settings: dict[str, str]) -> Iterator[Path]:
    parent = CGROUPS if _V2.exists() else CGROUPS / controller
    group = parent / f"cxrdali-benchmark-{controller}-{os.getpid()}"
    group.mkdir()
    try:
        if _V2.exists():
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        for name, value in settings.items():
            (group / name).write_text(value)
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Its processes have ended, but the kernel may need a moment to see that."""
    for _ in range(100):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return
    group.rmdir()


def _run(*command: str) -> str:
    """What a command printed. A command that fails raises OSError, as a forbidden system call does."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()
