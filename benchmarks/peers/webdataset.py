"""The webdataset library over our tars: the loader of its own documentation, with our output batch.

tars, shards shuffled -> shuffle buffer -> decode, cutout, flips -> batches uint8 [B, 1, S, S]
"""

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from torch.utils.data import DataLoader

from benchmarks.peers.images import Collate, worker_options
from benchmarks.peers.served import Baseline
from benchmarks.peers.work import Work, file_bytes
from cxrdali.data.augment import AugmentOptions
from shards.dataset.packed import PackedDataset

SHUFFLE_BUFFER = 1000  # encoded images, as the library's examples have it


def baseline(work: Work, workers: int) -> Baseline:
    tars = list(PackedDataset.open(work.data.jpeg).stored(work.size).paths.values())

    def open_pass(images: int, augment: AugmentOptions):
        collate = Collate(work.size, augment, itemgetter(0))
        loader = webdataset_loader(tars, (work.batch, images // work.batch), collate, workers, pin=work.pin)
        return lambda: loader

    return Baseline(open_pass, work.step, file_bytes(work.files))


def webdataset_loader(
    tars: Sequence[Path], shape: tuple[int, int], collate: Collate, workers: int, once: bool = False, pin: bool = False
) -> DataLoader:
    """Yields tensors uint8 [batch, 1, S, S] of tuples of a JPEG's bytes; shape: images per batch, and batches an epoch,
    a multiple of `workers`.

    once: every image comes once and in order; else workers sample from all tars with replacement, as the library
    advises, through its shuffle buffer.
    """
    import webdataset as wds

    batch, batches = shape
    images = (
        wds.WebDataset([str(tar) for tar in tars], resampled=not once, shardshuffle=False)
        .shuffle(0 if once else SHUFFLE_BUFFER)
        .to_tuple("jpg")
        .batched(batch, collation_fn=collate, partial=False)
        .with_epoch(batches // workers)
    )
    return DataLoader(images, batch_size=None, **worker_options(workers, pin))
