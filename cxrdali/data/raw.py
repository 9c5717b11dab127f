"""Raw images of the wanted size: copied from mapped shards to output batches by threads, ahead of who asks for them.

No DALI, which would write every image once more: on the CPU cutout and flips are part of the one copy. For a GPU the
copy goes to pinned memory, and augmentation follows there (`cxrdali.data.gpu`).
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np
import torch

from cxrdali.data.augment import Augmentation, Cutout, Decisions, Flips, carry_out
from cxrdali.data.pipeline import EpochPlan
from shards.dataset.mapped import MappedSize

log = logging.getLogger(__name__)


def fill(mapped: MappedSize, rows: np.ndarray, augment: tuple[Augmentation, ...], made: Decisions, out: np.ndarray):
    """Copy raw rows to `out`, uint8 [B, S, S], augmented (in that order) on the way.

    Raises UserError as `MappedSize.addresses` does.
    """
    copy = compiled() if [type(each) for each in augment] in ([], [Cutout], [Flips], [Cutout, Flips]) else None
    if copy is None:
        carry_out(augment, mapped.pixels(rows), made, out[..., None])
        return
    count = len(rows)
    squares, flips = np.zeros((count, 10), dtype=np.float32), np.zeros(count, dtype=np.int32)
    decided = {"anchor": squares, "shape": squares, "horizontal": flips, "vertical": flips}
    decided |= {name: made[name] for each in augment for name in each.decides}
    copy(mapped.addresses(rows), out, *(decided[name] for name in ("anchor", "shape", "horizontal", "vertical")))


@cache
def compiled() -> Callable[..., None] | None:
    """The compiled copy; None if numba cannot be imported."""
    try:
        from cxrdali.data import kernel
    except ImportError as error:
        log.info("raw images are copied one by one, which is slower: numba cannot be imported (%s)", error)
        return None
    return kernel.compiled()


class RawLane:
    """The batches of an epoch in order, made by at most `threads` threads, `prefetch` ahead of the one asked for.

    augment: what is carried out here. room: memory for a batch of so many images, uint8 [B, 1, S, S], that nobody uses.
    """

    def __init__(
        self,
        augment: tuple[Augmentation, ...],
        room: Callable[[int], torch.Tensor],
        threads: int,
        prefetch: int,
    ):
        compiled()  # here, not in several threads at once
        self._augment, self._room, self._prefetch = augment, room, prefetch
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="cxrdali raw")
        self._plan: EpochPlan | None = None
        self._numbers: Iterator[int] = iter(())
        self._made: deque[Future[tuple[torch.Tensor, Decisions]]] = deque()

    def begin(self, plan: EpochPlan, numbers: range) -> None:
        """Take the batches of these numbers, from the next run on."""
        self._plan, self._numbers = plan, iter(numbers)

    def run(self) -> tuple[torch.Tensor, Decisions]:
        """(images uint8 [B, 1, S, S] on the CPU, the decisions behind it) of the next batch."""
        while len(self._made) <= self._prefetch and (number := next(self._numbers, None)) is not None:
            assert self._plan is not None
            # Waiting for data and taking memory are for one thread: neither could be told from another's
            rows = self._plan.rows(number)
            self._made.append(
                self._threads.submit(_make, self._plan, number, rows, self._augment, self._room(len(rows)))
            )
        return self._made.popleft().result()

    def finish(self) -> None:
        """After the last batch."""
        self._plan = None

    def close(self) -> None:
        """End the threads, after the batches that they are making."""
        self._threads.shutdown(cancel_futures=True)
        self._made.clear()
        self._plan = None

    def rows_in_flight(self) -> list[int]:
        return []


def _make(
    plan: EpochPlan, number: int, rows: np.ndarray, augment: tuple[Augmentation, ...], images: torch.Tensor
) -> tuple[torch.Tensor, Decisions]:
    made = plan.decisions(number)
    fill(plan.mapped, rows, augment, made, images.numpy()[:, 0])
    return images, made
