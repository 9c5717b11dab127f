"""Raw images of the wanted size: one copy from mapped shards to a batch, with cutout and flips on the way."""

import logging
from collections.abc import Callable
from functools import cache

import numpy as np

from cxrdali.data.augment import Augmentation, Cutout, Decisions, Flips, carry_out
from shards.dataset.mapped import Alike, MappedSize

log = logging.getLogger(__name__)


def fill(
    mapped: MappedSize, rows: np.ndarray, augment: tuple[Augmentation, ...], made: Decisions, out: np.ndarray, at: Alike
) -> None:
    """Copy raw rows of a batch to their places (`at`) in `out`, uint8 [B, S, S], augmented on the way; raises as
    `MappedSize.addresses` does."""
    if len(at.places) < len(rows):
        rows, made = rows[at.places], {name: each[at.places] for name, each in made.items()}
    copy = compiled() if [type(each) for each in augment] in ([], [Cutout], [Flips], [Cutout, Flips]) else None
    if copy is None:  # an augmentation of a plugin among them, or no numba
        carry_out(augment, mapped.pixels(rows), made, [out[place, :, :, None] for place in at.places.tolist()])
        return
    squares, flips = np.zeros((len(rows), 10), dtype=np.float32), np.zeros(len(rows), dtype=np.int32)
    decided = {"anchor": squares, "shape": squares, "horizontal": flips, "vertical": flips}
    decided |= {name: made[name] for each in augment for name in each.decides}
    copy(np.stack([mapped.addresses(rows), at.places]), out, *decided.values())


@cache
def compiled() -> Callable[..., None] | None:
    """The compiled copy; None if numba cannot be used."""
    try:
        from cxrdali.data import kernel
    except ImportError as error:  # also if it is told to compile nothing
        log.info("raw images are copied one by one, which is slower: numba cannot be used (%s)", error)
        return None
    return kernel.compiled()
