"""Batches of images of the wanted size, made by threads ahead of who asks for them, without DALI.

Raw ones, which DALI would write once more, are copied from mapped shards (`cxrdali.data.raw`): on the CPU to the output
batch, for a GPU to pinned memory (`cxrdali.data.gpu`). JPEGs are decoded straight into the batch (`cxrdali.data.jpeg`),
images of another size resized into it: on the CPU, and of packs that differ in size or kind. What an image becomes
depends on its own side and kind, not on its neighbours.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import torch

from cxrdali.data import jpeg, raw
from cxrdali.data.augment import Augmentation, Decisions
from cxrdali.data.pipeline import EpochPlan

Made = tuple[torch.Tensor, Decisions]
Batches = Generator[Made, None, None]


def batches(
    plan: EpochPlan, augment: tuple[Augmentation, ...], room: Callable[[int], torch.Tensor], threads: int, ahead: int
) -> Batches:
    """The batches of an epoch, uint8 [B, 1, S, S] on the CPU, and the decisions of each; the threads end with it.

    augment: what is carried out here. room: memory for so many images that nobody uses. ahead: batches in the making,
    and more if there are more threads, since each makes a batch of its own.
    """
    if any(is_raw for _, is_raw in plan.mapped.stored.kinds):
        raw.compiled()  # here, not in several threads at once
    cv2.setNumThreads(1)  # of this process: several threads of ours are here, and OpenCV's would take turns with them
    made: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="cxrdali batch") as pool:
        try:
            for number in range(len(plan)):
                rows = plan.rows(number)  # waiting for data and finding idle memory are for this thread alone
                made.append(pool.submit(_make, plan, number, rows, augment, room(len(rows))))
                if len(made) > max(ahead, threads):
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            for each in made:
                each.cancel()


def _make(
    plan: EpochPlan, number: int, rows: np.ndarray, augment: tuple[Augmentation, ...], images: torch.Tensor
) -> Made:
    made, out = plan.decisions(number), images.numpy()[:, 0]
    for those in plan.mapped.stored.alike(rows):
        to_fill = raw.fill if those[:2] == (out.shape[1], True) else jpeg.fill
        to_fill(plan.mapped, rows, augment, made, out, those)
    return images, made
