"""DALI's own webdataset reader over our tars: the loader that someone writes who knows DALI well and does not have us.

    fn.readers.webdataset (tars, .idx) -> decode gray -> erase -> flip -> output batch uint8 [B, 1, S, S]

The augmentation has the stage-training paper's probabilities, sampled by DALI's operators, and the order is the
reader's shuffle buffer: neither is ours. Nothing but pixels is read: no ids, no labels.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.served import Baseline
from benchmarks.peers.work import SEED, Work, file_bytes
from cxrdali.data import pipeline as dali
from cxrdali.data.augment import SQUARES, AugmentOptions
from cxrdali.data.loader import device_id
from cxrdali.data.options import LoaderOptions
from shards.dataset.packed import PackedDataset

PREFETCH = 2  # batches
SHUFFLE_BUFFER = 1024  # encoded images; DALI's default


def baseline(work: Work, threads: int) -> Baseline:
    tars = list(PackedDataset.open(work.data.jpeg).stored(work.size).paths.values())
    options = LoaderOptions(work.size, work.batch, device=work.device, decode=work.decode)
    alive: list[DaliReader] = []
    how: list[AugmentOptions] = []

    def start_anew() -> None:
        """The reader runs on between two runs: without this, a cold one would begin with batches made before it."""
        alive[:] = [DaliReader(tars, options, threads, how[0])]

    def open_pass(images: int, augment: AugmentOptions):
        how[:] = [augment]
        start_anew()
        return lambda: alive[0].batches(images // work.batch)

    return Baseline(open_pass, work.step, file_bytes(work.files), start_anew)


class DaliReader:
    """Batches uint8 [B, 1, S, S] without end, from `tars` and the .idx beside each; a batch may be kept.

    threads: DALI's CPU threads; shuffle: by the reader's buffer, else the order of the tars.
    """

    def __init__(
        self, tars: Sequence[Path], options: LoaderOptions, threads: int, augment: AugmentOptions, shuffle: bool = True
    ):
        self._device = device_id(options)
        self._pipeline = _build([str(tar) for tar in tars], options, threads, augment, shuffle)

    def batches(self, count: int) -> Iterator[torch.Tensor]:
        """The next `count` batches."""
        for _ in range(count):
            if self._device is not None:
                (output,) = self._pipeline.run(torch.cuda.current_stream(self._device))
                images = torch.from_dlpack(output.as_tensor())
            else:
                (output,) = self._pipeline.run()
                images = torch.from_numpy(np.array(output.as_tensor()))  # DALI writes there again
            yield images.view(images.shape[0], 1, *images.shape[1:3])


def _build(tars: list[str], options: LoaderOptions, threads: int, augment: AugmentOptions, shuffle: bool):
    pipeline_def, fn, types = dali.load()
    device, decode = device_id(options), options.resolved_decode

    @pipeline_def(
        batch_size=options.batch,
        num_threads=threads,
        device_id=device,
        prefetch_queue_depth=PREFETCH,
        exec_dynamic=device is not None,
        seed=SEED,
    )
    def stage():
        stored = fn.readers.webdataset(
            paths=tars,
            index_paths=[tar.removesuffix(".tar") + ".idx" for tar in tars],
            ext=["jpg"],
            random_shuffle=shuffle,
            initial_fill=SHUFFLE_BUFFER,
            pad_last_batch=True,
            dont_use_mmap=True,  # as fast, and what it mapped could not be dropped from the cache for a cold run
            name="reader",
        )
        images = fn.decoders.image(stored, device="mixed" if decode == "mixed" else "cpu", output_type=types.GRAY)
        there = fn.random.coin_flip(probability=augment.cutout_probability)
        images = fn.erase(
            images,
            anchor=fn.random.uniform(range=(0.0, 1.0), shape=(2 * SQUARES,)) - augment.side / 2,
            shape=there * types.Constant(np.full(2 * SQUARES, augment.side, np.float32)),
            normalized=True,
            axes=(0, 1),
            fill_value=0,
        )
        images = fn.flip(
            images,
            horizontal=fn.random.coin_flip(probability=augment.hflip),
            vertical=fn.random.coin_flip(probability=augment.vflip),
        )
        return images if device is None or decode == "mixed" else images.gpu()

    pipeline = stage()
    pipeline.build()
    return pipeline
