"""Which validation images of one of several packs are training images of another, by equal pixels."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.dataset.dataset import Dataset, Part
from shards.dataset.pixels import constant_hashes
from shards.dataset.tables import take
from shards.words import counted

log = logging.getLogger(__name__)


def between_packs(dataset: Dataset, train: np.ndarray, val: np.ndarray) -> tuple[str, ...]:
    """What there is, in words. train, val: int64 [n], int64 [m], catalog rows of the whole.

    Says of which packs it is not known: they hashed their images at different sizes.
    """
    sizes = {part.name: part.dataset.info.get("hashed") for part in dataset.parts}
    if len({*sizes.values()}) > 1:
        words = ", ".join(f"{name} at {size} px" if size else f"{name} not at all" for name, size in sizes.items())
        log.info(f"note: whether packs of different sizes of hashed pixels share images is not known ({words})")
    found = []
    for validated in dataset.parts if len(dataset.parts) > 1 else ():
        mine = _hashes(validated, val, sizes[validated.name])
        for trained in dataset.parts:
            if trained is validated or not sizes[trained.name] or sizes[trained.name] != sizes[validated.name]:
                continue
            theirs = _hashes(trained, train, sizes[trained.name])
            if both := pc.sum(pc.is_in(mine, value_set=theirs)).as_py():
                images = counted(len(validated.own(val)), "validation image")
                found.append(f"{both:,} of {images} of {validated.name} are training images of {trained.name}")
    return tuple(found)


def _hashes(part: Part, rows: np.ndarray, size: int | None) -> pa.Array:
    """Of those of the whole's rows that are the pack's; not of images of a single gray, which many share."""
    if not size:
        return pa.array([], pa.large_string())
    hashes = take(part.dataset.arrow("pixels")["pixels"], part.own(rows))
    nothing = pa.array(["", *constant_hashes(size)], hashes.type)
    return hashes.filter(pc.invert(pc.is_in(pc.fill_null(hashes, ""), value_set=nothing)))
