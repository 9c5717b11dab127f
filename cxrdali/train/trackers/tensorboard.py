"""TensorBoard: a folder of events in the run's own."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cxrdali.runs.layout import EVENTS
from cxrdali.train.tracker import Session, TrackedRun, Tracker
from shards.storage.files import cannot_write, check_inside


@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Events that cannot be written end the training, as its other files do."""

    name: ClassVar[str] = "tensorboard"
    by_id: ClassVar[bool] = False

    @contextlib.contextmanager
    def following(self, run: TrackedRun) -> Iterator[Session]:
        """The last finished epoch is written anew: a kill may have come before it was."""
        from torch.utils.tensorboard import SummaryWriter  # a second of import time

        folder, hook = run.out / EVENTS, threading.excepthook
        before = max(0, run.epoch - 1) if folder.is_dir() else 0

        def quiet(error):  # what the writer's thread raises is raised here again, by its flush or its close
            if not type(error.thread).__module__.startswith("tensorboard"):
                hook(error)

        def send(epoch: int, values: Mapping[str, float]) -> None:
            with _writing(folder):
                for name, value in values.items():
                    events.add_scalar(name, value, epoch)
                events.flush()

        threading.excepthook = quiet
        check_inside(run.out, folder)
        with _writing(folder):  # if this fails, quiet stays: the thread may not have come to it yet
            events = SummaryWriter(str(folder), purge_step=before + 1)
            if not before:
                lines = (f"    {name}: {value}" for name, value in run.about.items())
                events.add_text("settings", "\n".join(lines))
        try:
            yield Session(before, send)
        finally:
            with _writing(folder):
                events.close()
            threading.excepthook = hook


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
