"""Where a run is within its epoch, for `cxrdali watch`: a small file that is there while the run trains."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxrdali.runs.layout import LIVE
from cxrdali.setting import strict_converter
from shards.errors import UserError
from shards.storage.files import open_own, read_regular

SECONDS = 3.0  # between two times that it is written
_LARGEST = 4096  # bytes


@dataclass(frozen=True)
class Live:
    """epoch: in progress, from 1; position: images of it that are done, of `of`; train_seconds, wait_seconds: of this
    epoch; gpu_bytes: the most that torch held, None on the CPU."""

    epoch: int
    position: int
    of: int
    train_seconds: float
    wait_seconds: float
    gpu_bytes: int | None


class Heartbeat:
    """Writes `Live` into a run's folder, every SECONDS at most; the file goes when `with` ends, and stays after a kill.
    Where it cannot be written, nothing is. out None: for processes that write nothing."""

    def __init__(self, out: Path | None):
        self._path, self._next = out and out / LIVE, 0.0
        self._aside = self._path and self._path.with_suffix(".new")

    def __enter__(self) -> "Heartbeat":
        return self

    def __exit__(self, *error: Any) -> None:
        self.end()

    def end(self) -> None:
        """Remove the file, also one that a killed start left."""
        for path in (self._path, self._aside) if self._path else ():
            with contextlib.suppress(OSError):
                path.unlink()

    def beat(self, now: Callable[[], Live]) -> None:
        """Not synced to the medium: a lost one is no loss, and a sync would be waited for."""
        if self._path is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS
        with contextlib.suppress(OSError, UserError):
            with open_own(self._aside, "w") as file:
                json.dump(asdict(now()), file)
            self._aside.replace(self._path)


def read_live(run: Path) -> Live | None:
    """None if the run is not within an epoch, or what it wrote cannot be read."""
    try:
        return strict_converter().structure(json.loads(read_regular(run / LIVE, _LARGEST)), Live)
    except Exception:  # also of another version: it is replaced in a few seconds
        return None
