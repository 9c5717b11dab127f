"""Images made smaller on the CPU without DALI, to the pixels of its `fn.resize` (linear, antialiased), bit by bit.

So an image has the same pixels in a pack of its own, which DALI resizes, and in a batch beside images of other sizes,
which threads make (`cxrdali.data.batches`). A pixel is a weighted mean of those under a triangle as wide as two output
pixels, along columns first, then along rows, in float32 and in DALI's order of operations. DALI rounds halves to even
where it takes 16 columns at a time, and up in the columns before and behind these (on x86-64; tests compare with it).
"""

from functools import cache

import numpy as np

HALF, TOGETHER = np.float32(0.5), 16  # columns that DALI rounds together


def resize(image: np.ndarray, out: np.ndarray) -> None:
    """Fill `out`, uint8 [S, S], from a larger `image`, uint8 [s, s]."""
    side, size = len(image), len(out)
    rows, weights = taps(side, size)
    inside = np.flatnonzero((rows[0] >= 0) & (rows[-1] < side))
    even = slice(inside[0], inside[0] + len(inside) // TOGETHER * TOGETHER) if len(inside) else slice(0)
    mean = _along_columns(_along_columns(image, rows, weights).T, rows, weights)  # of a column in a row
    for up in (slice(even.start), slice(even.stop, None)):
        whole = np.floor(mean[up])
        mean[up] = whole + (mean[up] - whole >= HALF)
    out[:] = np.rint(mean).T


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


def _along_columns(image: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = image.take(rows[0], axis=0, mode="clip") * weights[0]
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total += image.take(row, axis=0, mode="clip") * weight
    return total
