"""Our loader, and its ceilings."""

import gc
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.peers.served import Baseline
from benchmarks.peers.work import SEED, Work
from cxrdali.data.augment import AugmentOptions, carry_out, decide
from cxrdali.data.loader import Loader, RecycledBuffers
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import batch_bounds, global_order
from cxrdali.data.pipeline import EpochPlan, Lane, PipelineSpec
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset

CACHED = 4  # batches that are given again and again


def loader(work: Work, raw: bool, decode: str | None = None, plain: bool = False) -> Baseline:
    """plain: without augmentation, whatever is asked for."""
    dataset = PackedDataset.open(work.data.raw if raw else work.data.jpeg)
    options = LoaderOptions(size=work.size, batch=work.batch, device=work.device, decode=decode or work.decode)
    alive: list[Loader] = []

    def open_pass(images: int, augment: AugmentOptions):
        alive.clear()
        gc.collect()  # an old pipeline waits for it, and what it has mapped cannot be dropped from the cache
        how = {"seed": SEED, "shuffle": True, "augment": None if plain else augment, "drop_last": True}
        alive.append(Loader(dataset, rows(dataset, images), options, **how))

        def batches() -> Iterator[torch.Tensor]:
            alive[0].set_epoch(0)  # every run the same order, as in the others
            return (batch.images for batch in alive[0])

        return batches

    return Baseline(open_pass, work.step, _stored_bytes(dataset, work.size), forget_mapped)


def read_only(work: Work) -> Baseline:
    """Every byte of an epoch's samples copied once, by one thread, in the order of the epoch."""
    dataset = PackedDataset.open(work.data.jpeg)
    mapped = MappedSize(dataset.stored(work.size))
    room = np.empty(int(mapped.stored.length.max()), dtype=np.uint8)

    def open_pass(images: int, _augment: AugmentOptions):
        order = global_order(rows(dataset, images), SEED, 0).tolist()

        def copied() -> list[list[int]]:
            for row in order:
                stored = mapped[row]
                room[: len(stored)] = stored
            return [order]

        return copied

    return Baseline(open_pass, work.step, _stored_bytes(dataset, work.size), forget_mapped)


def cached_batches(work: Work) -> Baseline:
    """Decoded batches are there already: what is left of our loader is the copy that augments."""
    dataset = PackedDataset.open(work.data.jpeg)
    reader = Loader(dataset, rows(dataset, CACHED * work.batch), LoaderOptions(work.size, work.batch))
    ready = [batch.images.numpy().transpose(0, 2, 3, 1) for batch in reader]
    del reader
    gc.collect()  # with it goes what it mapped
    buffers = RecycledBuffers()

    def batches(images: int, augment: AugmentOptions) -> Iterator[torch.Tensor]:
        for number in range(images // work.batch):
            made = decide(augment, SEED, 0, number * work.batch, work.batch, work.size)
            out = buffers.take(ready[number % CACHED])
            carry_out(augment, ready[number % CACHED], made, out)
            yield torch.from_numpy(out).permute(0, 3, 1, 2)
            del out  # a buffer that is held is not used again

    return Baseline(lambda images, augment: lambda: batches(images, augment), work.step, float(work.size**2))


def decoded_by_dali(work: Work) -> Baseline:
    """DALI's decoder alone, as the loader fed it before it decoded on its own: two pipelines that take turns."""
    dataset = PackedDataset.open(work.data.jpeg)
    mapped, options = MappedSize(dataset.stored(work.size)), LoaderOptions(work.size, work.batch)
    threads = options.resolved_threads // options.lanes
    lanes = [
        Lane(PipelineSpec(work.size, False, work.size, work.batch, threads, None, "cpu")) for _ in range(options.lanes)
    ]
    buffers = RecycledBuffers()

    def open_pass(images: int, _augment: AugmentOptions):
        order = global_order(rows(dataset, images), SEED, 0)
        plan = EpochPlan(mapped, order, batch_bounds(images, work.batch, drop_last=True), (), lambda *_: {})

        def batches() -> Iterator[torch.Tensor]:
            for number, lane in enumerate(lanes):
                lane.begin(plan, range(number, len(plan), len(lanes)))
            for number in range(len(plan)):
                decoded = np.asarray(lanes[number % len(lanes)].run()[0].as_tensor())
                out = buffers.take(decoded)
                np.copyto(out, decoded)
                yield torch.from_numpy(out).permute(0, 3, 1, 2)
                del out
            for lane in lanes:
                lane.finish()

        return batches

    return Baseline(open_pass, work.step, _stored_bytes(dataset, work.size), forget_mapped)


def rows(dataset: PackedDataset, count: int) -> np.ndarray:
    """The packed rows, over and over until there are `count`."""
    return np.resize(np.flatnonzero(dataset.packed), count)


def forget_mapped() -> None:
    """Let go of every page that this process has mapped of shards, so that the kernel can drop it from the cache."""
    for each in gc.get_objects():
        if isinstance(each, MappedSize):
            for shard in each.stored.paths:
                each.forget(shard)


def _stored_bytes(dataset: PackedDataset, size: int) -> float:
    return float(dataset.stored(size).length[dataset.packed].mean())
