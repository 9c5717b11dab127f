"""What processes hold in memory, looked at again and again while something runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def sampled(look: Callable[[], float], every: float = 0.05) -> Iterator[list[float]]:
    """Samples of what `look` says, from the start of a block to its end, `every` so many seconds."""
    samples, ended = [], threading.Event()

    def watch() -> None:
        while True:
            samples.append(look())
            if ended.wait(every):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def proc_number(path: str, name: str) -> int:
    """The number behind NAME: in a file of /proc/self, such as status (in KiB) or io (in bytes)."""
    lines = Path("/proc/self", path).read_text().splitlines()
    return int(next(line.split(":")[1].split()[0] for line in lines if line.startswith(f"{name}:")))
