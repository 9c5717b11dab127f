"""Renditions on the CPU: decoded into the output batch itself, or resized into it, and augmented where they lie.

simplejpeg decodes as fast as DALI: both are libjpeg-turbo. But DALI's decoder fills memory of its own and copies it to
its output, and the loader copied that again, from memory that had left the processor's cache (benchmarks/LOG.md).
"""

import numpy as np
import simplejpeg

from cxrdali.data.augment import Augmentation, Decisions, in_order
from cxrdali.data.resize import resizer
from shards.dataset.mapped import Alike, MappedSize


class DamagedImage(Exception):
    """A stored image that is no whole rendition of its size. row: in the catalog; fault: what is wrong with it."""

    def __init__(self, row: int, fault: str):
        super().__init__(row, fault)
        self.row, self.fault = row, fault


def fill(
    mapped: MappedSize, rows: np.ndarray, augment: tuple[Augmentation, ...], made: Decisions, out: np.ndarray, at: Alike
) -> None:
    """Fill places (`at`) of a batch in `out`, uint8 [B, S, S], and augment each image before the next.

    Raises DamagedImage, or as `MappedSize.addresses` does.
    """
    side, size = at.pixels, out.shape[1]
    work = [(each, each.steps(made, size)) for each in in_order(augment)]
    room, resize = np.empty((side, side, 1), dtype=np.uint8), None if side == size else resizer(side, size)
    every = (mapped.pixels if at.raw else mapped.slices)(rows[at.places])
    for place, stored in zip(at.places.tolist(), every, strict=True):
        image = out[place, :, :, None]
        target = image if resize is None else room
        if at.raw:
            target[...] = stored
        elif fault := decode_into(target, stored):
            raise DamagedImage(int(rows[place]), fault)
        if resize is not None:
            resize(room[:, :, 0], out[place])
        for each, steps in work:
            if steps[place] is not None:
                each.apply(image, steps[place], image)


def decode_into(image: np.ndarray, stored: np.ndarray) -> str | None:
    """Decode a gray JPEG, uint8 [n], into `image`, uint8 [S, S, 1] and contiguous; returns what is wrong, or None.

    What libjpeg only warns about is wrong, too: the rest of a damaged scan is plausible gray.
    """
    try:
        # first: simplejpeg compares the size of the memory given with one that overflows at 65,500 pixels a side
        height, width, colours, _ = simplejpeg.decode_jpeg_header(stored)
        if (height, width, colours) != (*image.shape[:2], "Gray"):
            return f"{height} x {width} pixels, {colours}"
        simplejpeg.decode_jpeg(stored, "GRAY", strict=True, buffer=image)
    except ValueError as error:
        return str(error).strip()
    return None
