"""Which sample of a batch is damaged, and what DALI failed on."""

import numpy as np

from cxrdali.data.jpeg import decode_into
from cxrdali.runtime.full import OTHERS, is_full
from shards.dataset.dataset import Dataset
from shards.dataset.mapped import MappedSize
from shards.errors import UserError


def failure(dataset: Dataset, mapped: MappedSize, rows: list[int], error: Exception, decode: str) -> UserError:
    """What to say of an error of DALI, which does not name the sample: `rows`, the batches in flight, are decoded one
    by one, unless the GPU was full. decode: as in the loader's options, resolved."""
    stored, full = mapped.stored, is_full(error)
    for row in () if full or stored.raw else rows:
        room = np.empty((stored.pixels, stored.pixels, 1), dtype=np.uint8)
        if fault := decode_into(room, mapped[row]):
            return damaged(dataset, mapped, row, fault)
    text = str(error).strip() or repr(error)
    cause = text.partition("encountered:")[2].strip() or text  # in front of it DALI quotes our source
    words = f"{dataset.root}: DALI failed on size {stored.pixels}: {cause.splitlines()[0]}"
    if full:
        decode = "" if decode == "cpu" else "use --decode cpu, "
        words += f"; the GPU is full: {decode}{OTHERS}, or use a smaller --micro-batch (to predict, --batch)"
    return UserError(words)


def damaged(dataset: Dataset, mapped: MappedSize, row: int, fault: str) -> UserError:
    path = mapped.stored.paths[mapped.stored.shard[row]]
    part = next(part for part in dataset.parts if row < part.stop)
    return UserError(
        f"{path}: sample {part.dataset.key(row - part.start)!r} is damaged ({fault}); run `cxrdali verify "
        f"{part.dataset.root}`, then restore the shard or pack again"
    )
