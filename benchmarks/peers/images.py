"""A batch from JPEGs, as fast as we can make it in Python: every peer that leaves decoding to its user has it.

simplejpeg decodes to where the image is wanted, cutout is NumPy's, flips are OpenCV's on the way to the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from torch.utils.data import get_worker_info

from benchmarks.peers.work import read
from cxrdali.data.augment import AugmentOptions, Decisions, decide
from cxrdali.data.augment.cutout import Cutout
from cxrdali.data.augment.flips import Flips

Decode = Callable[[Any, np.ndarray], np.ndarray]  # stored, room of the image's size -> the image, there or elsewhere


def by_simplejpeg(stored: bytes, room: np.ndarray) -> np.ndarray:
    simplejpeg.decode_jpeg(stored, "GRAY", buffer=room)
    return room


def as_it_is(image: np.ndarray, _room: np.ndarray) -> np.ndarray:
    """For images that are decoded already."""
    return image


def batch_of(stored: Sequence, size: int, made: Decisions, decode: Decode = by_simplejpeg) -> torch.Tensor:
    """uint8 [B, 1, S, S] of stored images with the decisions carried out; in shared memory in a DataLoader's worker."""
    batch = _empty(len(stored), size)
    images, room = batch.numpy()[:, 0], np.empty((size, size), np.uint8)
    squares, flips = Cutout().steps(made, size), Flips().steps(made, size)
    for each, image, cut, flip in zip(stored, images, squares, flips, strict=True):
        decoded = decode(each, image if flip is None else room)
        for top, left, bottom, right in cut or ():
            decoded[top:bottom, left:right] = 0
        if flip is not None:
            cv2.flip(decoded, flip, dst=image)
        elif decoded is not image:
            image[...] = decoded
    return batch


class Collate:
    """A DataLoader's collate_fn: batches of stored images, augmented at random.

    stored: takes the stored image out of what a peer's dataset gives, where that is more.
    """

    def __init__(self, size: int, augment: AugmentOptions, stored: Callable | None = None):
        self._size, self._augment, self._stored = size, augment, stored

    def __call__(self, items: Sequence) -> torch.Tensor:
        stored = [self._stored(item) for item in items] if self._stored else items
        return batch_of(stored, self._size, at_random(self._augment, len(stored), self._size))


def from_files(
    batches: Sequence[Sequence[Path]], size: int, augment: AugmentOptions, decode: Decode = by_simplejpeg
) -> Iterator[Callable[[], torch.Tensor]]:
    """What makes each batch of loose files, to be called by any thread."""
    for files in batches:
        yield lambda files=files: batch_of(
            [read(path) for path in files], size, at_random(augment, len(files), size), decode
        )


def at_random(augment: AugmentOptions, count: int, size: int) -> Decisions:
    """Decisions for a batch, from NumPy's generator, which torch seeds in its workers."""
    return decide(augment, int(np.random.randint(2**31)), 0, 0, count, size)


def worker_options(workers: int, pin: bool) -> dict:
    """Of a DataLoader whose workers stay alive and do not share their threads' cores."""
    # forkserver: DALI's threads and CUDA run in this process by the time that workers start. Two batches ahead
    # per worker measured as well as four, with half of the memory.
    return {
        "num_workers": workers,
        "persistent_workers": True,
        "prefetch_factor": 2,
        "pin_memory": pin,
        "worker_init_fn": one_thread,
        "multiprocessing_context": "forkserver",
    }


def one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _empty(count: int, size: int) -> torch.Tensor:
    """Uninitialised uint8 [count, 1, size, size]; from a worker the main process receives it without a copy."""
    if get_worker_info() is None:
        return torch.empty((count, 1, size, size), dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(count * size * size)  # noqa: SLF001  torch's own collate does so
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (count, 1, size, size))
