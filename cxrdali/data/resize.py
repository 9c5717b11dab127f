"""Images made smaller on the CPU without DALI, to the pixels of its `fn.resize` (linear, antialiased), bit by bit.

So an image has the same pixels in a pack of its own, which DALI resizes, and in a batch beside images of other sizes,
which threads make (`cxrdali.data.batches`). A pixel is a weighted mean of those under a triangle as wide as two output
pixels, along columns first, then along rows, in float32 and in DALI's order of operations. DALI rounds halves to even
where it takes 16 columns at a time, and up in the columns before and behind these (on x86-64; tests compare with it).
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from cxrdali.data.raw import compiled

HALF, LANES = np.float32(0.5), 16  # columns that DALI rounds together


def resizer(stored: int, size: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """What fills an image of `size` pixels a side (second, uint8) from one of `stored` (first); for one thread."""
    begin, weights = taps(stored, size)
    inside = (begin >= 0) & (begin + len(weights) <= stored)
    columns = np.array([inside.argmax(), inside.argmax() + inside.sum() // LANES * LANES])
    turned, fast = np.empty((stored, size), dtype=np.float32), compiled("resize")

    def resize(image: np.ndarray, out: np.ndarray) -> None:
        if fast is not None:
            fast(image, begin, weights, columns, turned, out)
            return
        mean = _along_columns(_along_columns(image.astype(np.float32), begin, weights).T, begin, weights).T
        out[:] = np.floor(mean) + (mean - np.floor(mean) >= HALF)
        out[:, slice(*columns)] = np.rint(mean[:, slice(*columns)])

    return resize


@cache
def taps(stored: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which stored pixels an output pixel is made of.

    Returns: int64 [size], the first one (outside the image, the border's pixel stands for it), and float32 [n, size],
    the weights of that and the next ones.
    """
    scale = np.float32(stored) / np.float32(size)
    slope = np.float32(1) / scale
    at = np.arange(size, dtype=np.float32) * scale + (HALF * scale - HALF - np.float32(1) / slope)
    begin = np.ceil(at)
    count = int(np.ceil(np.float32(2) / slope))
    place = (np.arange(count, dtype=np.float32)[:, None] + (begin - at)) * slope
    weights = np.clip(np.where(place < 1, place, 1 - (place - 1)), 0, None)
    return begin.astype(np.int64), weights / np.cumsum(weights, axis=0)[-1]  # cumsum: added one after the other


def _along_columns(image: np.ndarray, begin: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows = (begin + np.arange(len(weights))[:, None]).clip(0, len(image) - 1)
    total = image[rows[0]] * weights[0][:, None]
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total += image[row] * weight[:, None]
    return total
