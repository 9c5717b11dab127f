"""Lanes: DALI pipelines that take turns with an epoch's batches."""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakMethod

import numpy as np

from cxrdali.data import pipeline
from cxrdali.data.augment import Decisions, decide
from cxrdali.data.download import CopyAhead
from cxrdali.data.readahead import ReadAhead

if TYPE_CHECKING:
    from cxrdali.data.loader import Loader


class _Lane:
    """A DALI pipeline and the batches that it was given, in the order in which it hands them over.

    On the CPU two lanes take turns: a pipeline waits for the last image of a batch before it begins the next, and the
    cores that wait are the other lane's. One pipeline keeps 1.8 of 2 cores busy, two keep 1.95 (benchmarks/LOG.md).
    """

    def __init__(self, spec: pipeline.PipelineSpec):
        self._plan: _EpochPlan | None = None
        self._numbers: Iterator[int] = iter(())
        # What DALI may still be reading: with no_copy these arrays must outlive their batch. The output of a
        # delivered batch can still be computed from until the next run, hence one batch more.
        self._in_flight: deque[_Fed] = deque()
        self._delivered: _Fed | None = None
        # Weakly: DALI's source is part of a cycle of references, and a lane in it would keep its last batches, and
        # their shards from making room for others, until the cycle happens to be collected.
        feed = WeakMethod(self._feed)
        self._pipeline = pipeline.build(spec, lambda: feed()())

    def __del__(self):
        self.close()

    def begin(self, plan: "_EpochPlan", numbers: range) -> None:
        """Take the batches of these numbers, from the next run on."""
        self._plan, self._numbers = plan, iter(numbers)

    def run(self, *stream) -> tuple:
        """(DALI's output, the decisions behind it) for the next batch."""
        (output,) = self._pipeline.run(*stream)
        self._delivered = self._in_flight.popleft()
        return output, self._delivered.decisions

    def finish(self) -> None:
        """After the last batch: DALI wants to see the end of the data before it can begin again."""
        try:
            self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
        self._plan = None  # it knows the loader, which else only the garbage collector would let go

    def close(self) -> None:
        """The pipeline goes first: DALI may still be reading the arrays that the lane keeps alive."""
        self._pipeline = None
        self._plan = None

    def rows_in_flight(self) -> list[int]:
        return [row for fed in self._in_flight for row in fed.rows.tolist()]

    def _feed(self) -> tuple:
        """DALI calls this for a batch; StopIteration, which `next` raises, is the end of the epoch."""
        fed = self._plan.fed(next(self._numbers))
        self._in_flight.append(fed)
        return fed.arrays


class _Fed(NamedTuple):
    """A batch on its way through DALI: what `pipeline.build` wants from its source, and what came of the draws."""

    rows: np.ndarray
    arrays: tuple
    decisions: Decisions | None


class _EpochPlan:
    """The batches of one iteration by number, from 0."""

    def __init__(self, loader: "Loader", order: np.ndarray, windows: list, bounds: list[tuple[int, int]]):
        self._loader, self._epoch = loader, loader._epoch
        self._order, self._bounds = order, bounds
        mapped, start, self._copies = loader._mapped, bounds[0][0] if bounds else len(order), None
        if mapped.stored.mirror is not None:
            self._copies = CopyAhead(mapped, order, windows, start, *loader._spread)
        ready = self._copies and self._copies.ready
        self._ahead = ReadAhead(mapped, order, windows, start, ready=ready, ranks=loader.world)

    def __len__(self) -> int:
        return len(self._bounds)

    def fed(self, number: int) -> _Fed:
        start, stop = self._bounds[number]
        loader, mapped = self._loader, self._loader._mapped
        if self._copies is not None:
            self._copies.wait(start, stop)
        self._ahead.wait(start, stop)
        rows = self._order[start:stop]
        arrays = (mapped.pixels(rows) if mapped.stored.raw else mapped.slices(rows),)
        made = None
        if loader.augment is not None:
            made = decide(loader.augment, loader.seed, self._epoch, start, stop - start, loader.options.size)
        if loader._dali_augments:
            arrays += (list(made.anchor), list(made.shape), list(made.horizontal), list(made.vertical))
        return _Fed(rows, arrays, made)

    def close(self) -> None:
        self._ahead.close()
        if self._copies is not None:
            self._copies.close()
