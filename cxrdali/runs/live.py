"""Where a run is within its epoch, for `cxrdali watch`: a small file that is there while the run trains."""

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cxrdali.runs.layout import LIVE
from cxrdali.setting import strict_converter
from shards.errors import UserError
from shards.storage.files import open_own, read_regular

SECONDS = 3.0  # at least, between two times that it is written
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
    """`Live` in a run's folder, until `close`; a kill leaves it there. Where it cannot be written, nothing is."""

    def __init__(self, out: Path):
        self._path, self._aside, self._next = out / LIVE, (out / LIVE).with_suffix(".new"), 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next

    def beat(self, now: Live) -> None:
        """Not synced to the medium: a lost one is no loss, and a sync would be waited for."""
        self._next = time.monotonic() + SECONDS
        with contextlib.suppress(OSError, UserError):
            with open_own(self._aside, "w") as file:
                json.dump(asdict(now), file)
            self._aside.replace(self._path)

    def close(self) -> None:
        """Remove the file, also one that a killed start left."""
        with contextlib.suppress(OSError):
            self._aside.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)


def read_live(run: Path) -> Live | None:
    """None if the run is not within an epoch, or what it wrote cannot be read."""
    try:
        return strict_converter().structure(json.loads(read_regular(run / LIVE, _LARGEST)), Live)
    except Exception:  # also of another version: it is replaced in a few seconds
        return None
