"""Images of the wanted size made by threads in output batches, ahead of who asks for them: raw ones by a copy.

No DALI, which would write every image once more: on the CPU cutout and flips are part of the one copy. For a GPU the
copy goes to pinned memory, and augmentation follows there (`cxrdali.data.gpu`). JPEGs, on the CPU only, are decoded
straight into the batch (`cxrdali.data.jpeg`).
"""

import logging
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np
import torch

from cxrdali.data import jpeg
from cxrdali.data.augment import Augmentation, Cutout, Decisions, Flips, carry_out
from cxrdali.data.pipeline import EpochPlan
from shards.dataset.mapped import MappedSize

log = logging.getLogger(__name__)
Augments = tuple[Augmentation, ...]
Made = tuple[torch.Tensor, Decisions]
Batches = Generator[Made, None, None]


def batches(
    plan: EpochPlan, augment: Augments, room: Callable[[int], torch.Tensor], threads: int, ahead: int
) -> Batches:
    """The batches of an epoch, uint8 [B, 1, S, S] on the CPU, and the decisions of each; the threads end with it.

    augment: what is carried out here. room: memory for so many images that nobody uses. ahead: batches in the making.
    """
    if plan.mapped.stored.raw:
        compiled()  # here, not in several threads at once
    made: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="cxrdali raw") as pool:
        try:
            for number in range(len(plan)):
                rows = plan.rows(number)  # waiting for data and finding idle memory are for this thread alone
                made.append(pool.submit(_make, plan, number, rows, augment, room(len(rows))))
                if len(made) > ahead:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            for each in made:
                each.cancel()


def fill(mapped: MappedSize, rows: np.ndarray, augment: Augments, made: Decisions, out: np.ndarray) -> None:
    """Copy raw rows to `out`, uint8 [B, S, S], augmented on the way; raises as `MappedSize.addresses` does."""
    copy = compiled() if [type(each) for each in augment] in ([], [Cutout], [Flips], [Cutout, Flips]) else None
    if copy is None:  # an augmentation of a plugin among them, or no numba
        carry_out(augment, mapped.pixels(rows), made, out[..., None])
        return
    squares, flips = np.zeros((len(rows), 10), dtype=np.float32), np.zeros(len(rows), dtype=np.int32)
    decided = {"anchor": squares, "shape": squares, "horizontal": flips, "vertical": flips}
    copy(mapped.addresses(rows), out, *(decided | {k: made[k] for each in augment for k in each.decides}).values())


@cache
def compiled() -> Callable[..., None] | None:
    """The compiled copy; None if numba cannot be imported."""
    try:
        from cxrdali.data import kernel
    except ImportError as error:
        log.info("raw images are copied one by one, which is slower: numba cannot be imported (%s)", error)
        return None
    return kernel.compiled()


def _make(plan: EpochPlan, number: int, rows: np.ndarray, augment: Augments, images: torch.Tensor) -> Made:
    made = plan.decisions(number)
    to_fill = fill if plan.mapped.stored.raw else jpeg.fill
    to_fill(plan.mapped, rows, augment, made, images.numpy()[:, 0])
    return images, made
