"""What the kernel lets this process have: cores and memory, control groups included."""

import re
import resource
from collections.abc import Iterator
from pathlib import Path

# what torch, DALI, the loader of shared libraries and the kernel say where memory is missing
_NO_MEMORY = re.compile(
    r"can(no|')t allocate memory|bad_alloc|failed to map segment|temporarily unavailable|can't start new thread", re.I
)
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container, rounded up."""
    from joblib import cpu_count  # a tenth of a second

    return cpu_count()


def memory_available(
    root: Path = CGROUPS, membership: Path = MEMBERSHIP, meminfo: Path = Path("/proc/meminfo")
) -> tuple[int, int | None]:
    """(bytes that this process and the page cache of its files may still take, limit of its control groups or None).

    What a group's own page cache holds counts as free: the kernel drops it first.
    """
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+)", _text(meminfo), re.MULTILINE))
    total, available = (int(kilobytes.get(name, 0)) * 1024 for name in ("MemTotal", "MemAvailable"))
    limits = []
    for controller, names, cache in (
        ("", ("memory.max", "memory.current"), "file"),
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_cache"),
    ):
        for folder in _groups(controller, root, membership):
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and limit < total:  # version 1 writes "no limit" as a very large number
                cached = re.search(rf"^{cache} (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
                limits.append((limit, max(limit - (used or 0) + int(cached[1] if cached else 0), 0)))
    free = min([available, *(min(limit, room) for limit, room in limits)])
    return free, min((limit for limit, _ in limits), default=None)


def out_of_memory(error: BaseException | None) -> BaseException | None:
    """The error, or its cause, that says that memory or threads cannot be had, or None; a GPU's says so itself."""
    if error is None or isinstance(error, MemoryError):
        return error
    if cause := out_of_memory(error.__cause__):
        return cause
    told = isinstance(error, OSError | ImportError | RuntimeError) and _NO_MEMORY.search(str(error))
    return error if told and "not permitted" not in str(error) else None


def address_limit() -> int | None:
    """Bytes of addresses that this process may have (ulimit -v); None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _groups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """This process's group and the ones above it; controller "" is version 2. Inside a container the upper ones, or
    its own name, may be hidden: then only the root's files are there."""
    for line in _text(membership).splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            base = root / controller
            yield from (base / part for part in (Path(path.lstrip("/")), *Path(path.lstrip("/")).parents))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max" and -1 are no limit


MOST_THREADS = 8  # decoding 224 px takes about 0.1 ms of one core; more threads than this only steal them


def default_threads(processes: int = 1) -> int:
    """A loader's threads in each of so many processes that share the cores: two a core of its share, at least 1."""
    return max(1, min(MOST_THREADS, 2 * cores() // processes))
