"""SPDL: its pipeline of threads over loose files, with its own decoder (FFmpeg's) or simplejpeg in it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread

import torch
from spdl import io
from spdl.pipeline import PipelineBuilder

from benchmarks.peers.images import as_it_is, at_random, batch_of, from_files
from benchmarks.peers.served import Baseline
from benchmarks.peers.work import Work, file_bytes
from cxrdali.data.augment import AugmentOptions


def baseline(work: Work, threads: int, own_decoder: bool) -> Baseline:
    def open_pass(images: int, augment: AugmentOptions):
        batches = work.batches(images)
        how = _decoded_by_spdl if own_decoder else from_files
        return lambda: _through_pipeline(how(batches, work.size, augment), threads)

    return Baseline(open_pass, work.step, file_bytes(work.files), lambda: None)


def _decoded_by_spdl(
    batches: Sequence[Sequence[Path]], size: int, augment: AugmentOptions
) -> Iterator[Callable[[], torch.Tensor]]:
    def make(files: Sequence[Path]) -> torch.Tensor:
        # gray as they are stored, without a filter, which would only be told to change nothing
        decoded = io.load_image_batch([str(path) for path in files], width=None, height=None, filter_desc=None)
        images = io.to_numpy(decoded).reshape(len(files), size, size)
        return batch_of(list(images), size, at_random(augment, len(files), size), as_it_is)

    for files in batches:
        yield lambda files=files: make(files)


def _through_pipeline(jobs: Iterator, threads: int) -> Iterator[torch.Tensor]:
    builder = PipelineBuilder().add_source(jobs).pipe(lambda job: job(), concurrency=threads).add_sink(2 * threads)
    pipeline = builder.build(num_threads=threads)
    pipeline.start()
    try:
        yield from pipeline.get_iterator()
    finally:
        Thread(target=pipeline.stop).start()  # it takes 0.1 s, which no long epoch would notice
