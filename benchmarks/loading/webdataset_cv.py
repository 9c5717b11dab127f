"""The webdataset library with OpenCV: the loader of its own documentation, with our output batch.

tars, shards shuffled -> shuffle buffer -> cv2 decode gray -> cutout, flips -> batches uint8 [B, 1, S, S]
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.loading.baselines import FLIP_CODES, worker_options
from cxrdali.data.augment import SQUARES, AugmentOptions

SHUFFLE_BUFFER = 1000  # encoded images, as the library's examples have it


def webdataset_loader(
    tars: Sequence[Path], batch: int, batches: int, workers: int, augment: AugmentOptions | None, pin: bool = False
) -> DataLoader:
    """Yields tensors uint8 [batch, 1, S, S], `batches` an epoch, a multiple of `workers`.

    Without augmentation every image comes once, if `batches` are as many as there are images / `batch`, and workers
    have whole batches; with it, workers sample from all tars. Order and augmentation are random: the library knows no
    other.
    """
    import webdataset as wds

    # training samples shards with replacement, as the library advises for workers; else each is read once
    images = (
        wds.WebDataset([str(tar) for tar in tars], resampled=augment is not None, shardshuffle=False)
        .shuffle(SHUFFLE_BUFFER if augment else 0)
        .to_tuple("jpg")
        .map(_Image(augment))
        .batched(batch, collation_fn=_stacked, partial=False)
        .with_epoch(batches // workers)
    )
    return DataLoader(images, batch_size=None, **worker_options(workers, pin))


def _stacked(samples: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(samples)[:, None])


class _Image:
    """From (a JPEG's bytes,) to uint8 [S, S]."""

    def __init__(self, augment: AugmentOptions | None):
        self._augment = augment

    def __call__(self, sample: tuple[bytes]) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(sample[0], np.uint8), cv2.IMREAD_GRAYSCALE)
        if self._augment is None:
            return image
        samples = np.random.random(3 + 2 * SQUARES)  # the workers' own seeds: torch sets them
        size = len(image)
        if samples[0] < self._augment.cutout_probability:
            side = int(size * self._augment.side)
            for top, left in _corners(samples[3:], size, side):
                image[max(top, 0) : top + side, max(left, 0) : left + side] = 0
        code = FLIP_CODES[int(samples[1] < self._augment.hflip) + 2 * int(samples[2] < self._augment.vflip)]
        return image if code is None else cv2.flip(image, code)


def _corners(samples: np.ndarray, size: int, side: int) -> Iterator[tuple[int, int]]:
    centres = (samples * size).astype(int).reshape(-1, 2) - side // 2
    return ((top, left) for top, left in centres.tolist())
