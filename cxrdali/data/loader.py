"""An epoch as an iterable of batches: planned order, pixels decoded or stored raw, torch's tensors.

Contract. A batch is (images uint8 [B, 1, S, S], 0..255, on the loader's device; rows int64 [B], CPU). Training
drops the last partial batch; evaluation returns every row once, in the order given. Rows and pixels depend on
rows, seed, epoch and position alone: not on threads, prefetching or where an epoch was resumed. A batch stays
valid for as long as it is held. A sample that the decoder refuses raises UserError with shard and key (it does
not notice all damage: hashes do, see `cxrdali verify`); the loader can be iterated again afterwards. Iterating
anew begins the epoch again and abandons an iteration that was left half-way.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from cxrdali.data import gpu
from cxrdali.data.augment import Augmentation, carry_out, decide, in_order
from cxrdali.data.batches import Batches, batches
from cxrdali.data.buffers import RecycledBuffers
from cxrdali.data.damage import damaged, failure
from cxrdali.data.download import CopyAhead
from cxrdali.data.jpeg import DamagedImage
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import Windows, batch_bounds, global_order, shard_windows, share_of, windowed_order
from cxrdali.data.pipeline import Ahead, EpochPlan, Lane, PipelineSpec
from cxrdali.data.readahead import ReadAhead
from cxrdali.data.sampler import epoch_samples
from cxrdali.runtime.limits import cores
from shards.dataset.dataset import Dataset
from shards.dataset.mapped import MappedSize, StoredSize
from shards.errors import UserError
from shards.words import counted


class Batch(NamedTuple):
    """images: uint8 [B, 1, S, S], 0..255, on the loader's device; rows: int64 [B], catalog rows, on the CPU."""

    images: torch.Tensor
    rows: torch.Tensor


@dataclass(eq=False, repr=False)
class Loader:
    """Batches of the given catalog rows. `shuffle` and `augment` make it a training loader.

    Args:
        rows: catalog rows, int64 [n]; repeats are allowed.
        augment: what happens to the images, for example `AugmentOptions()`; None for nothing.
        sampler: the rows of an epoch (from 0) instead of each once (`cxrdali.data.sampler`).
        rank, world: this process's share. With `drop_last`, every batch is split evenly (`world` must divide its size);
            otherwise whole batches go round-robin. `position` always counts the whole epoch's samples.

    A whole epoch has `samples`. `resized_from` is the stored size in pixels that is read when the wanted one is not
    stored, else None; of several packs, the largest such size.

    Raises:
        UserError: for no rows, rejected rows, too few for a batch, a size that is not stored, or, of a dataset in a
            bucket, a disk without room for what is still to be copied.
    """

    sample: ClassVar[str] = "image"  # what a position counts

    dataset: Dataset
    rows: np.ndarray
    options: LoaderOptions
    _: KW_ONLY
    seed: int = 0
    shuffle: bool = False
    augment: Iterable[Augmentation] | None = None
    drop_last: bool = False
    sampler: Callable[[int], np.ndarray] | None = None
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        self._lanes: list[Lane] = []  # first: what is refused below is closed, too
        self._made: Batches | None = None
        self._plan: EpochPlan | None = None
        dataset, options = self.dataset, self.options
        self.rows = rows = np.ascontiguousarray(self.rows, dtype=np.int64)
        if not len(rows):
            raise UserError(f"{dataset.root}: no rows to load; choose another split or pack more images")
        if not dataset.packed[rows].all():
            bad = rows[~dataset.packed[rows]][0]
            raise UserError(f"{dataset.root}: row {bad} was rejected at packing (see rejects.csv); leave it out")
        self.samples = epoch_samples(self.sampler, rows)
        if self.drop_last and self.samples < options.batch:
            raise UserError(
                f"{dataset.root}: {counted(self.samples, f'training {self.sample}')} make no batch of {options.batch}; "
                "use a smaller --batch or pack more images"
            )
        self.mapped = MappedSize(stored_for(dataset, options.size))
        stored, alike = self.mapped.stored, len(self.mapped.stored.kinds) == 1
        self.resized_from = stored.pixels if stored.pixels != options.size else None
        if not alike and options.resolved_decode != "cpu":
            kinds = " and ".join(f"{side} px {'raw' if raw else 'JPEG'}" for side, raw in stored.kinds)
            raise UserError(
                f"decode {options.decode!r}: {kinds} renditions of {dataset.root} are decoded together, which the CPU "
                "does; use --decode cpu, or pack all at one size and as one kind"
            )
        stored.check_room(np.unique(stored.shard[rows]))  # refused now, not after hours of copying
        self._by_dali = alike and (self.resized_from is not None or (options.on_gpu and not stored.raw))
        if not self._by_dali:  # copying and decoding wait for nothing: more threads than cores would only take turns
            self.options = options = replace(options, threads=min(options.resolved_threads, cores()))
        self._augment, self._device_id = in_order(self.augment), device_id(options)
        self._device = torch.device(torch.device(options.device).type, self._device_id or 0)
        self._epoch, self._position, self._resume_at = 0, 0, 0
        self.buffers = RecycledBuffers()

    def __del__(self):
        self.close()

    def close(self) -> None:
        """Let go of pipelines and threads; the next iteration makes new ones."""
        if self._plan is not None:
            self._plan.close()
        if self._made is not None:
            self._made.close()
        for lane in self._lanes:
            lane.close()
        self._lanes, self._made, self._plan = [], None, None

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(batch_bounds(self.samples, self.options.batch, drop_last=self.drop_last))

    def set_epoch(self, epoch: int) -> None:
        """Start the given epoch (from 0) with the next iteration. A finished iteration moves on by itself."""
        self._epoch, self._position, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Where the consumer is: epoch, and samples delivered in it. Prefetched batches do not count."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration continue from a `state_dict`, with any batch size and number of threads."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._resume_at = state["position"]

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in the order of delivery, the dropped remainder included: int64 [n]."""
        return self.epoch_order(epoch)[0]

    def epoch_order(self, epoch: int) -> tuple[np.ndarray, Windows]:
        """`epoch_rows`, and the windows in which their shards are read; none if any image may be next."""
        rows = self.rows if self.sampler is None else self.sampler(epoch)
        stored = self.mapped.stored
        if not self.shuffle and (self.options.order == "windowed" or stored.mirrors):
            return rows, shard_windows(rows, stored.shard)  # from a bucket, so that work begins with the first shard
        if self.options.order == "global":
            return global_order(rows, self.seed, epoch) if self.shuffle else rows, []
        packs = stored.pack_of if stored.packs else None
        return windowed_order(rows, stored.shard, self.seed, epoch, self.options.window, packs)

    def own_places(self) -> np.ndarray:
        """Which of `rows`, by place, this rank delivers in an epoch of evaluation, in that order: int64 [m]."""
        own, _ = self.own_batches(len(self.rows))
        return np.concatenate([np.arange(0), *(np.arange(start, stop) for start, stop in own)])

    def __iter__(self) -> Iterator[Batch]:
        order, windows = self.epoch_order(self._epoch)
        # used once: after a `break`, a loop over the loader begins the epoch again
        self._position, self._resume_at = self._resume_at, 0
        bounds, reached = self.own_batches(len(order), self._position)
        rows, windows, spans = self.images_of(order, windows, bounds)
        ahead = self._ahead(rows, windows, spans[0][0] if spans else len(rows))
        decide_batch = partial(decide, self._augment, self.seed, self._epoch, size=self.options.size)
        with closing(EpochPlan(self.mapped, rows, spans, ahead, decide_batch)) as plan:
            self._start(plan)
            for number, (start, stop) in enumerate(bounds):
                if self._made is not None:
                    images = self._next_made(self._made)
                else:
                    images = self._next_images(self._lanes[number % len(self._lanes)])
                self._position = reached[number]
                # .copy(): the consumer's rows must not be a view of our order
                yield Batch(images, torch.from_numpy(order[start:stop].copy()))
                del images  # its memory is free as soon as the consumer lets go of it
                if self._plan is not plan:
                    raise RuntimeError("this iteration was abandoned by a newer one over the same loader")
            for lane in self._lanes:
                lane.finish()
            if self._made is not None:
                self._made.close()
            self._made, self._plan = None, None
            self.buffers.trim()
            self._epoch, self._position = self._epoch + 1, 0

    def own_batches(self, count: int, start: int = 0) -> tuple[list[tuple[int, int]], list[int]]:
        """This rank's part of the batches of `count` samples from position `start` on, and the position that the epoch
        has reached with each."""
        bounds = batch_bounds(count, self.options.batch, start, self.drop_last)
        if self.drop_last:
            return [share_of(each, self.rank, self.world) for each in bounds], [stop for _, stop in bounds]
        own = bounds[self.rank :: self.world]  # whole batches: no gradients are shared
        return own, [stop for _, stop in own]

    def images_of(
        self, order: np.ndarray, windows: Windows, bounds: list[tuple[int, int]]
    ) -> tuple[np.ndarray, Windows, list[tuple[int, int]]]:
        """An epoch's samples, its windows and the bounds of batches among them, as images: the same, unless a sample is
        more than one image."""
        return order, windows, bounds

    @property
    def most_images(self) -> int:
        """In a batch."""
        return self.options.batch // self.world if self.drop_last else self.options.batch

    def _ahead(self, order: np.ndarray, windows: Windows, start: int) -> list[Ahead]:
        if not self.mapped.stored.mirrors:
            return [ReadAhead(self.mapped, order, windows, start, ranks=self.world)]
        copies = CopyAhead(self.mapped, order, windows, start)
        return [copies, ReadAhead(self.mapped, order, windows, start, ready=copies.ready, ranks=self.world)]

    def _start(self, plan: EpochPlan) -> None:
        if self._plan is not None:  # left half-way
            self.close()
        self._plan, options, lanes = plan, self.options, self.options.lanes
        if not self._by_dali:
            augment: tuple[Augmentation, ...] = () if options.on_gpu else self._augment
            on_cpu = partial(self.buffers.images, most=self.most_images)
            room = partial(gpu.room, device=self._device) if options.on_gpu else on_cpu
            threads, ahead = options.resolved_threads, options.prefetch
            self._made = batches(plan, augment, partial(room, size=options.size), threads, ahead)
            return
        if not self._lanes:
            spec = PipelineSpec(
                stored=self.mapped.stored.pixels,
                raw=self.mapped.stored.raw,
                pixels=options.size,
                batch=self.most_images,
                threads=math.ceil(options.resolved_threads / lanes),
                device_id=self._device_id,
                decode=options.resolved_decode,
                prefetch=options.prefetch,
            )
            self._lanes = [Lane(spec) for _ in range(lanes)]
        for number, lane in enumerate(self._lanes):
            lane.begin(plan, range(number, len(plan), len(self._lanes)))

    def _next_made(self, made: Batches) -> torch.Tensor:
        try:
            images, decisions = next(made)
        except DamagedImage as error:
            self.close()
            raise damaged(self.dataset, self.mapped, error.row, error.fault) from error
        return gpu.augmented(images, self._augment, decisions, self._device) if self.options.on_gpu else images

    def _next_images(self, lane: Lane) -> torch.Tensor:
        try:
            if self._device_id is None:
                output, decisions = lane.run()
                decoded = np.asarray(output.as_tensor())
                room = self.buffers.images(len(decoded), self.options.size, self.most_images)
                out = room.numpy().reshape(decoded.shape)
                carry_out(self._augment, decoded, decisions, out)
                images = torch.from_numpy(out)
            else:
                output, decisions = lane.run(torch.cuda.current_stream(self._device_id))
                images = gpu.from_dali(output)
        except (RuntimeError, MemoryError) as error:
            rows = [row for each in self._lanes for row in each.rows_in_flight()]
            found = failure(self.dataset, self.mapped, rows, error, self.options.resolved_decode)
            self.close()
            raise found from error
        # [B, S, S, 1] and [B, 1, S, S] are the same bytes for one channel
        images = images.view(images.shape[0], 1, *images.shape[1:3])
        return images if self._device_id is None else gpu.augmented(images, self._augment, decisions, self._device)


def stored_for(dataset: Dataset, size: int) -> StoredSize:
    """What is read for `size` pixels, each pack's nearest stored size; raises as `nearest_stored` does."""
    return StoredSize.joined([part.dataset.stored(nearest_stored(part.dataset, size)) for part in dataset.parts])


def nearest_stored(dataset: Dataset, size: int) -> int:
    """The stored size to read for `size` pixels: itself, else the nearest larger one, which is then resized; of several
    packs the largest of theirs."""
    found = []
    for part in dataset.parts:
        larger = [pixels for pixels in part.dataset.sizes if pixels >= size]
        if not larger:
            stored = ", ".join(map(str, part.dataset.sizes)) or "none"
            raise UserError(
                f"{part.dataset.root}: no rendition of {size} pixels or more is stored (stored: {stored}); "
                f"choose a smaller --size or pack again with --sizes ...,{size}"
            )
        found.append(min(larger))
    return max(found)


def device_id(options: LoaderOptions) -> int | None:
    """The number of the GPU that batches come to; None for the CPU."""
    if not options.on_gpu:
        return None
    index = torch.device(options.device).index
    return torch.cuda.current_device() if index is None else index
