"""Who makes the shards: worker processes of this machine, or the workers of a Dask cluster (`cluster`)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import joblib

from shards.packing.make_shard import PlannedImage, ShardTask, make_shard
from shards.packing.plan import Plan
from shards.storage.location import Location
from shards.workers import Watch, run


@dataclass(frozen=True)
class Work:
    """What an engine needs besides the tasks.

    root: the release; out: the packed dataset; tmp: the run's folder for unfinished files; plan: of the
    whole dataset; spans: per shard to be made the first row of the plan and the one after the last; stall:
    seconds in which a worker must finish an image, or say that it is alive.
    """

    root: Location
    out: Location
    tmp: Path
    plan: Plan
    spans: dict[int, tuple[int, int]]
    stall: float

    @property
    def images(self) -> int:
        return sum(stop - start for start, stop in self.spans.values())

    def images_of(self, shard: int) -> int:
        start, stop = self.spans[shard]
        return stop - start

    def image_at(self, shard: int, place: int) -> str:
        """The image that a worker is at when it has finished `place` of the shard."""
        start, stop = self.spans[shard]
        return str(self.root / self.plan.path(min(start + place, stop - 1)))


Tasks = Iterable[tuple[ShardTask, Sequence[PlannedImage]]]


class Engine(Protocol):
    def make(self, tasks: Tasks, work: Work) -> None:
        """Make all shards. Raises UserError if that is not possible; those that are made stay."""


@dataclass(frozen=True)
class Local:
    """`jobs` processes of this machine, which end with this one."""

    jobs: int = 1

    def make(self, tasks: Tasks, work: Work) -> None:
        calls = (joblib.delayed(make_shard)(*task) for task in tasks)
        with Watch(work.tmp, work.images, work.stall, work.image_at) as watch:
            for shard in run(calls, self.jobs, str(work.out), idle=math.inf):
                watch.finished(work.images_of(shard))
