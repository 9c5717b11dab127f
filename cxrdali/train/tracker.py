"""What tells others of a run's numbers, beside its own tables: one file for each in cxrdali/train/trackers."""

import contextlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cxrdali.registry import Named, Registry
from shards.errors import UserError


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told when a run begins or goes on.

    out: its folder; id: the same whenever it goes on, "" if no tracker needs one; group: what it shares with its
    siblings; epoch: finished ones; about: its settings and artefacts by name.
    """

    out: Path
    id: str
    group: str | None
    epoch: int
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.out.resolve().name


@dataclass
class Session:
    """A tracker that has begun. sent: the last epoch that it has; send: gives it an epoch (from 1) and its numbers."""

    sent: int
    send: Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Tracker(Named):
    """by_id: it goes on with a run by the run's id, and can be told later what it missed."""

    by_id: ClassVar[bool] = True

    def check(self) -> None:
        """Raises UserError for what no training should wait for: a package that is missing, an unknown user."""

    def following(self, run: TrackedRun) -> contextlib.AbstractContextManager[Session]:
        """From where a run begins or goes on to where it ends: finished, by `StoppedTogether` or by an error.

        UserError ends the training, as every file that cannot be written; of others the training only says.
        """
        raise NotImplementedError


REGISTRY = Registry("tracker", "cxrdali.train.trackers", Tracker)


def needed(tracker: str, *packages: str) -> None:
    """Raises UserError if a tracker's package is missing."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"track {tracker}: {package} is not installed; pip install 'cxrdali[track]'") from error
