"""The DALI pipeline of every stage, and lanes: pipelines that take turns with an epoch's batches.

Stored bytes come in, uint8 images [S, S, 1] out:

    mapped slices -> decode (raw: none) -> resize (only if the stored size differs)

Decode modes: cpu decodes and resizes on the CPU; hybrid decodes on the CPU and resizes on the GPU; mixed does both on
the GPU. With a GPU, every mode's output is there. DALI augments nothing: on the CPU that is part of the copy to the
output batch (`cxrdali.data.augment.carry_out`), on a GPU torch's (`cxrdali.data.gpu`). Raw images of the wanted size
need no DALI at all, nor do JPEGs of it on the CPU (`cxrdali.data.batches`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol
from weakref import WeakMethod

import numpy as np

from cxrdali.data.augment import Decisions
from shards.dataset.mapped import MappedSize
from shards.errors import UserError


@dataclass(frozen=True)
class PipelineSpec:
    """stored: side of the stored rendition, pixels: side of the output; device_id: GPU number, None for CPU only;
    decode: cpu, mixed or hybrid (resolved, not auto); prefetch: batches in flight."""

    stored: int
    raw: bool
    pixels: int
    batch: int
    threads: int
    device_id: int | None
    decode: str
    prefetch: int = 2


def build(spec: PipelineSpec, source: Callable[[], list[np.ndarray]]) -> Any:
    """A built pipeline that pulls its batches from `source` and has one output, images uint8 [S, S, 1].

    `source` returns the stored bytes of a batch, uint8 [n] each (raw: pixels uint8 [S, S, 1]), or raises StopIteration.
    """
    pipeline_def, fn, types = load()

    # The dynamic executor lets a GPU output live as long as torch holds it. On the CPU it allocates every
    # output anew, and the page faults of that cost more than our copy into a recycled buffer.
    @pipeline_def(
        batch_size=spec.batch,
        num_threads=spec.threads,
        device_id=spec.device_id,
        prefetch_queue_depth=spec.prefetch,
        exec_dynamic=spec.device_id is not None,
    )
    def stage():
        # no_copy: DALI reads the mapped pages themselves, in its own threads; the loader keeps them alive
        stored = fn.external_source(source=source, dtype=types.UINT8, batch=True, no_copy=True)
        if spec.raw:
            images = fn.reshape(stored, layout="HWC")
        else:
            device = "mixed" if spec.decode == "mixed" else "cpu"
            images = fn.decoders.image(stored, device=device, output_type=types.GRAY)
        if spec.decode == "hybrid" or (spec.raw and spec.decode == "mixed"):
            images = images.gpu()
        if spec.stored != spec.pixels:  # an identity resize would cost more than the decode
            images = fn.resize(images, size=[spec.pixels, spec.pixels], interp_type=types.INTERP_LINEAR, antialias=True)
        if spec.decode == "cpu" and spec.device_id is not None:
            images = images.gpu()
        return images

    pipeline = stage()
    pipeline.build()
    return pipeline


# ---------------------------------------------------------------- lanes


class Ahead(Protocol):
    """What makes the stored bytes of an epoch ready before they are asked for."""

    def wait(self, start: int, stop: int) -> None:
        """Return when the images at positions [start, stop) are ready."""

    def close(self) -> None:
        """End its threads."""


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The batches of one iteration by number, from 0.

    Args:
        order: catalog rows of the epoch, int64 [n].
        bounds: half-open ranges of positions in `order`, one for each batch.
        ahead: waited for, one after the other, before a batch's bytes are used.
        decide: the augmentation's decisions for so many samples (second) from a position (first) on.
    """

    mapped: MappedSize
    order: np.ndarray
    bounds: list[tuple[int, int]]
    ahead: Sequence[Ahead]
    decide: Callable[[int, int], Decisions]

    def __len__(self) -> int:
        return len(self.bounds)

    def rows(self, number: int) -> np.ndarray:
        """The rows of a batch by number, int64 [B], as soon as their stored bytes are in memory."""
        start, stop = self.bounds[number]
        for each in self.ahead:
            each.wait(start, stop)
        return self.order[start:stop]

    def decisions(self, number: int) -> Decisions:
        start, stop = self.bounds[number]
        return self.decide(start, stop - start)

    def close(self) -> None:
        for each in reversed(self.ahead):
            each.close()


class Lane:
    """A DALI pipeline and the batches that it was given, in the order in which they come out.

    On the CPU two lanes take turns: a pipeline waits for the last image of a batch before it begins the next, and the
    cores that wait are the other lane's. One pipeline keeps 1.8 of 2 cores busy, two keep 1.95 (benchmarks/LOG.md).
    """

    def __init__(self, spec: PipelineSpec):
        self._plan: EpochPlan | None = None
        self._numbers: Iterator[int] = iter(())
        # What DALI may still be reading: with no_copy these arrays must outlive their batch. The output of a
        # delivered batch can still be computed from until the next run, hence one batch more.
        self._in_flight: deque[tuple[np.ndarray, list[np.ndarray], Decisions]] = deque()  # rows, bytes, decisions
        self._delivered: list[np.ndarray] | None = None
        # Weakly: DALI's source is part of a cycle of references, and a lane in it would keep its last batches until
        # the cycle happens to be collected.
        feed = WeakMethod(self._feed)
        self._pipeline = build(spec, lambda: feed()())  # type: ignore[misc]  # it is there while DALI runs

    def __del__(self):
        self.close()

    def begin(self, plan: EpochPlan, numbers: range) -> None:
        """Take the batches of these numbers, from the next run on."""
        self._plan, self._numbers = plan, iter(numbers)

    def run(self, *stream: Any) -> tuple:
        """(DALI's output, the decisions behind it) for the next batch."""
        (output,) = self._pipeline.run(*stream)
        _, self._delivered, decisions = self._in_flight.popleft()
        return output, decisions

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
        return [row for rows, *_ in self._in_flight for row in rows.tolist()]

    def _feed(self) -> list[np.ndarray]:
        """DALI calls this for a batch; StopIteration, which `next` raises, is the end of the epoch."""
        number, plan = next(self._numbers), self._plan
        assert plan is not None
        rows = plan.rows(number)
        stored = plan.mapped.pixels(rows) if plan.mapped.stored.raw else plan.mapped.slices(rows)
        self._in_flight.append((rows, stored, plan.decisions(number)))
        return stored


# ---------------------------------------------------------------- DALI itself

WHEELS = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")


def load():
    """The modules (pipeline_def, fn, types) of NVIDIA DALI. Raises UserError with the command that fixes it."""
    found = [name for name in WHEELS if _installed(name)]
    if len(found) > 1:  # both write the folder nvidia/dali: the second one overwrote half of the first
        raise UserError(
            f"{' and '.join(found)} are both installed and overwrite each other; "
            f"pip uninstall -y {' '.join(found)}, then pip install one of them (cuda130 for CUDA 13 drivers)"
        )
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise UserError(
            f"NVIDIA DALI cannot be imported ({error}); pip install {WHEELS[0]} (CUDA 13, or no GPU), "
            f"or {WHEELS[1]} for CUDA 12 drivers"
        ) from error
    return pipeline_def, fn, types


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
