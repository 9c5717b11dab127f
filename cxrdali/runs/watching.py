"""How a run is at this moment, from its files: nothing of it is changed, and nothing waits for it."""

import fcntl
from dataclasses import dataclass
from pathlib import Path

from cxrdali.data.schedule import Segment, at, epochs_left
from cxrdali.runs.listing import is_run
from cxrdali.runs.live import Live, read_live
from cxrdali.runs.progress import Progress
from cxrdali.runs.reader import Run
from shards.errors import UserError

TRAINING, VALIDATING, BUSY = "training", "validating", "starts or saves"
FINISHED, KILLED, STOPPED, UNREADABLE = "finished", "killed", "stopped", "unreadable"


@dataclass(frozen=True)
class Watched:
    """state: one of those above; progress: of its finished epochs; live: within the epoch, None if it is in none; last:
    the last row of metrics.csv; seconds_left: of all epochs, None where no time is known; fault: why it is unreadable;
    segments: of a schedule.
    """

    name: str
    state: str
    progress: Progress | None = None
    live: Live | None = None
    last: dict[str, float] | None = None
    seconds_left: float | None = None
    fault: str = ""
    segments: tuple[Segment, ...] = ()

    @property
    def size(self) -> int | None:
        """Of a schedule, the side in pixels of the images of this epoch, else of the last one."""
        epoch = self.live.epoch if self.live else self.progress.epoch if self.progress else 0
        return at(self.segments, max(0, epoch - 1)).size if self.segments else None

    @property
    def rate(self) -> float | None:
        """Images per second of this epoch, else of the last one."""
        if self.live and self.live.train_seconds:
            return self.live.position / self.live.train_seconds
        return self.last["images_per_second"] if self.last else None

    @property
    def waiting(self) -> float | None:
        """Which share of that training time waited for data, 0 to 1."""
        if self.live and self.live.train_seconds:
            return self.live.wait_seconds / self.live.train_seconds
        return self.last["wait_seconds"] / self.last["train_seconds"] if self.last else None


def watched(path: Path) -> Watched:
    """A run's folder as it is now."""
    held = is_held(path / ".lock")  # first: a run that ends meanwhile counts as running, not as killed
    if held and not is_run(path):
        return Watched(path.name, BUSY)
    try:
        run, live = Run.open(path), read_live(path)
        progress, metrics = run.progress, run.metrics
    except UserError as error:
        return Watched(path.name, UNREADABLE, fault=str(error))
    sizes = run.settings.segments if run.setting("schedule") else ()
    last = None if metrics.empty else metrics.iloc[-1].to_dict()
    left_over, live = live, live if live and live.epoch > progress.epoch else None  # that of a saved epoch says nothing
    if progress.finished:
        return Watched(path.name, FINISHED, progress, None, last, 0.0, segments=sizes)
    if not held:
        return Watched(path.name, KILLED if left_over else STOPPED, progress, live, last, segments=sizes)
    state = BUSY if not left_over else VALIDATING if live and live.position >= live.of else TRAINING
    now = at(run.settings.segments, progress.epoch)
    left = epochs_left(run.settings.segments, progress.epoch, now)
    epochs = (metrics["train_seconds"] + metrics["val_seconds"]).iloc[now.start :].tolist()
    return Watched(path.name, state, progress, live, last, _seconds_left(left, live, epochs), segments=sizes)


def _seconds_left(left: float, live: Live | None, epochs: list[float]) -> float | None:
    """By the epochs of this size so far without the first, which compiles and fills caches; in the first one by its own
    pace. left: epochs."""
    if epochs:
        seconds = sum(epochs[1:] or epochs) / len(epochs[1:] or epochs)
    elif live and live.position:
        seconds = live.train_seconds * live.of / live.position
    else:
        return None
    return max(0.0, left * seconds - (live.train_seconds if live else 0))


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock that `shards.storage.files.only_one` made. Where that cannot be known, it does."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
