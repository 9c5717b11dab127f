"""Images made smaller on the CPU without DALI, to the pixels of its `fn.resize` (linear, antialiased), bit by bit.

So an image has the same pixels in a pack of its own, which DALI resizes, and in a batch beside images of other sizes,
which threads make (`cxrdali.data.batches`). A pixel is a weighted mean of those under a triangle as wide as two output
pixels, along columns first, then along rows, in float32 and in DALI's order of operations. DALI rounds halves to even
where it takes 16 columns at a time, and up in the columns before and behind these (on x86-64; tests compare with it).
"""

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

HALF, TOGETHER = np.float32(0.5), 16  # columns that DALI rounds together


def resizer(side: int, size: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """What fills an image uint8 [size, size] (second) from one of [side, side] (first); for one thread."""
    rows, weights = taps(side, size)
    inside = np.flatnonzero((rows[0] >= 0) & (rows[-1] < side))
    even = slice(inside[0], inside[0] + len(inside) // TOGETHER * TOGETHER) if len(inside) else slice(0)
    # room, once for all images: new memory of this size costs more in page faults than all the arithmetic
    wide, turned = (np.empty((side, width), dtype=np.float32) for width in (side, size))
    high, mean = (np.empty((2, size, width), dtype=np.float32) for width in (side, size))

    def resize(image: np.ndarray, out: np.ndarray) -> None:
        np.copyto(wide, image)
        _along_columns(wide, rows, weights, high)
        cv2.transpose(high[0], turned)
        _along_columns(turned, rows, weights, mean)  # mean[0]: of a column in a row
        for up in (mean[0, : even.start], mean[0, even.stop :]):
            whole = np.floor(up)
            up[:] = whole + (up - whole >= HALF)
        np.rint(mean[0], out=mean[0])
        cv2.transpose(mean[0].astype(np.uint8), out)

    return resize


@cache
def taps(side: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which stored pixels an output pixel is made of: int64 [n, size], those outside the image included, for which the
    border's stand; and their weights, float32 [n, size, 1]."""
    scale = np.float32(side) / np.float32(size)
    slope = np.float32(1) / scale
    at = np.arange(size, dtype=np.float32) * scale + (HALF * scale - HALF - np.float32(1) / slope)
    begin, count = np.ceil(at), np.arange(np.ceil(np.float32(2) / slope), dtype=np.float32)[:, None]
    place = (count + (begin - at)) * slope
    weights = np.clip(np.where(place < 1, place, 1 - (place - 1)), 0, None)
    weights /= np.cumsum(weights, axis=0)[-1]  # added one after the other, as sum does not
    return (begin + count).astype(np.int64), weights[..., None]


def _along_columns(image: np.ndarray, rows: np.ndarray, weights: np.ndarray, sums: np.ndarray) -> None:
    """The weighted sums to `sums[0]`; `sums[1]` is room."""
    for tap, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        image.take(row, axis=0, mode="clip", out=sums[min(tap, 1)])
        sums[min(tap, 1)] *= weight
        if tap:
            sums[0] += sums[1]
