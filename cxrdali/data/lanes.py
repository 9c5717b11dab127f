"""Lanes: DALI pipelines that take turns with an epoch's batches."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakMethod

import numpy as np

from cxrdali.data import pipeline
from cxrdali.data.augment import Decisions
from shards.dataset.mapped import MappedSize


class Ahead(Protocol):
    """What makes the stored bytes of an epoch ready before they are asked for."""

    def wait(self, start: int, stop: int) -> None:
        """Return when the images at positions [start, stop) are ready."""

    def close(self) -> None:
        """End its threads."""


class FedBatch(NamedTuple):
    """A batch on its way through DALI: its rows, the arrays for the source of `pipeline.build`, and the decisions."""

    rows: np.ndarray
    arrays: tuple
    decisions: Decisions


class EpochPlan:
    """What goes into DALI for each batch of one iteration over an epoch; batches are numbered from 0."""

    def __init__(
        self,
        mapped: MappedSize,
        order: np.ndarray,
        bounds: list[tuple[int, int]],
        ahead: Sequence[Ahead],
        decide: Callable[[int, int], Decisions],
        given: Sequence[str],
    ):
        """
        Args:
            order: catalog rows of the epoch, int64 [n].
            bounds: half-open ranges of positions in `order`, one for each batch.
            ahead: waited for, one after the other, before a batch's bytes are used.
            decide: the augmentation's decisions for so many samples (second) from a position (first) on.
            given: names of the decisions that DALI carries out.
        """
        self._mapped, self._order, self._bounds = mapped, order, bounds
        self._ahead, self._decide, self._given = ahead, decide, given

    def __len__(self) -> int:
        return len(self._bounds)

    def fed(self, number: int) -> FedBatch:
        """A batch by number, as soon as its stored bytes are in memory."""
        start, stop = self._bounds[number]
        for each in self._ahead:
            each.wait(start, stop)
        rows = self._order[start:stop]
        stored = self._mapped.pixels(rows) if self._mapped.stored.raw else self._mapped.slices(rows)
        decisions = self._decide(start, stop - start)
        return FedBatch(rows, (stored, *(list(decisions[name]) for name in self._given)), decisions)

    def close(self) -> None:
        for each in reversed(self._ahead):
            each.close()


class Lane:
    """A DALI pipeline and the batches that it was given, in the order in which they come out.

    On the CPU two lanes take turns: a pipeline waits for the last image of a batch before it begins the next, and the
    cores that wait are the other lane's. One pipeline keeps 1.8 of 2 cores busy, two keep 1.95 (benchmarks/LOG.md).
    """

    def __init__(self, spec: pipeline.PipelineSpec):
        self._plan: EpochPlan | None = None
        self._numbers: Iterator[int] = iter(())
        # What DALI may still be reading: with no_copy these arrays must outlive their batch. The output of a
        # delivered batch can still be computed from until the next run, hence one batch more.
        self._in_flight: deque[FedBatch] = deque()
        self._delivered: FedBatch | None = None
        # Weakly: DALI's source is part of a cycle of references, and a lane in it would keep its last batches until
        # the cycle happens to be collected.
        feed = WeakMethod(self._feed)
        self._pipeline = pipeline.build(spec, lambda: feed()())  # type: ignore[misc]  # it is there while DALI runs

    def __del__(self):
        self.close()

    def begin(self, plan: EpochPlan, numbers: range) -> None:
        """Take the batches of these numbers, from the next run on."""
        self._plan, self._numbers = plan, iter(numbers)

    def run(self, *stream: Any) -> tuple:
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
        self._plan = None

    def close(self) -> None:
        """The pipeline goes first: DALI may still be reading the arrays that the lane keeps alive."""
        self._pipeline = None
        self._plan = None

    def rows_in_flight(self) -> list[int]:
        return [row for fed in self._in_flight for row in fed.rows.tolist()]

    def _feed(self) -> tuple:
        """DALI calls this for a batch; StopIteration, which `next` raises, is the end of the epoch."""
        number = next(self._numbers)
        assert self._plan is not None
        fed = self._plan.fed(number)
        self._in_flight.append(fed)
        return fed.arrays
