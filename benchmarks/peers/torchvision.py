"""torchvision's decoder in gray, which is the fastest that it has on a CPU: in DataLoader workers, or in threads."""

import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.peers import dataloader
from benchmarks.peers.images import from_files
from benchmarks.peers.served import Baseline
from benchmarks.peers.work import Work, file_bytes
from cxrdali.data.augment import AugmentOptions


def by_torchvision(stored: bytes, _room: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that bytes cannot be written to, which nobody does
        encoded = torch.frombuffer(stored, dtype=torch.uint8)
    return decode_jpeg(encoded, ImageReadMode.GRAY)[0].numpy()


def baseline(work: Work, count: int, threads: bool) -> Baseline:
    if not threads:
        return dataloader.baseline(work, count, by_torchvision)

    def open_pass(images: int, augment: AugmentOptions):
        batches = work.batches(images)
        return lambda: _in_threads(from_files(batches, work.size, augment, by_torchvision), count)

    return Baseline(open_pass, work.step, file_bytes(work.files), lambda: None)


def _in_threads(jobs: Iterator, count: int) -> Iterator[torch.Tensor]:
    """What each job returns, in order, with two a thread begun ahead of the consumer."""
    ahead: deque[Future] = deque()
    with ThreadPoolExecutor(count) as pool:
        for job in jobs:
            ahead.append(pool.submit(job))
            if len(ahead) > 2 * count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
