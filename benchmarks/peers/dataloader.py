"""The best DataLoader that we could write with our output batch: loose files, and our batches to the pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.images import Decode, batch_of, by_simplejpeg, worker_options
from benchmarks.peers.served import Baseline
from benchmarks.peers.work import SEED, Work, file_bytes, read
from cxrdali.data.augment import AugmentOptions, decide


def baseline(work: Work, workers: int, decode: Decode = by_simplejpeg) -> Baseline:
    def open_pass(images: int, augment: AugmentOptions):
        batches = work.batches(images)
        loader = file_loader(Batches(work.size, augment, decode), batches, workers, work.pin)
        return lambda: loader

    return Baseline(open_pass, work.step, file_bytes(work.files), lambda: None)


class Batches(Dataset):
    """Items are batches uint8 [B, 1, S, S]; an index is (position of its first sample in the pass, its files)."""

    def __init__(self, size: int, augment: AugmentOptions, decode: Decode = by_simplejpeg, seed: int = SEED):
        self._size, self._augment, self._decode, self._seed = size, augment, decode, seed

    def __getitem__(self, index: tuple[int, Sequence[Path]]) -> torch.Tensor:
        start, files = index
        made = decide(self._augment, self._seed, 0, start, len(files), self._size)
        return batch_of([read(path) for path in files], self._size, made, self._decode)


def file_loader(dataset: Batches, batches: Sequence[Sequence[Path]], workers: int, pin: bool = False) -> DataLoader:
    """Yields the batches of these files in order."""
    starts = np.cumsum([0, *(len(files) for files in batches)])[:-1].tolist()
    order = list(zip(starts, batches, strict=True))
    # batch_size=None: an index is a whole batch, which its worker writes in place, so nothing is collated
    return DataLoader(dataset, sampler=order, batch_size=None, **worker_options(workers, pin))
