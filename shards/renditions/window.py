"""From 16 bits to 8: which values become black and white.

Radiographs are stored in 16-bit files with 10 to 16 bits in use, and the loaders of the field differ: over 65,535
(TorchXRayVision; the loss-design paper), or between percentiles, which no bright marker or white border moves.
"""

import cv2
import numpy as np

PERCENTILES = (0.5, 99.5)  # of the image's pixels
FULL_BITS = 13  # with fewer, 65,535 leaves an image below 1/16 of white

_VALUES = 2**16
_BLOCK = 2**17  # pixels looked up at a time: NumPy makes 8 bytes of each
_COUNTED = 2**22  # pixels counted at a time: OpenCV's float32 holds counts below 2**24


def eight_bits(pixels: np.ndarray, window: str) -> np.ndarray:
    """uint16 [h, w] to uint8 [h, w], rounded half up; values outside the window become 0 or 255.

    window: "full" is 0 to 65,535; "minmax" the image's own smallest to largest value; "percentile" its 0.5 to 99.5
    percentile (NumPy's linear definition), or its smallest to largest where both are one value. An image of one
    value is black, except under "full".
    """
    if window == "full":
        low, high = 0.0, _VALUES - 1.0
    else:
        low, high = _limits(_histogram(pixels), window)
    if low == high:
        return np.zeros(pixels.shape, np.uint8)
    share = (np.arange(_VALUES) - low) / (high - low)
    table = np.floor(share.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    flat, made = pixels.ravel(), np.empty(pixels.size, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        part = slice(start, start + _BLOCK)
        np.take(table, flat[part], out=made[part], mode="clip")
    return made.reshape(pixels.shape)


def bits_in_use(pixels: np.ndarray) -> int:
    """The smallest number of bits that holds the brightest pixel; 0 for an image of zeros."""
    return int(pixels.max()).bit_length()


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """int64 [65536]: how many pixels have each value."""
    flat = pixels.ravel()
    counts = np.zeros(_VALUES, dtype=np.int64)
    for start in range(0, len(flat), _COUNTED):  # five times as fast as np.bincount
        part = flat[start : start + _COUNTED][None]
        counts += cv2.calcHist([part], [0], None, [_VALUES], [0, _VALUES]).ravel().astype(np.int64)
    return counts


def _limits(counts: np.ndarray, window: str) -> tuple[float, float]:
    present = np.flatnonzero(counts)
    least, most = float(present[0]), float(present[-1])
    if window == "minmax":
        return least, most
    # the k-th smallest pixel is the first value whose count from below is more than k: no sorting of 8 megapixels
    below = np.cumsum(counts)
    places = (below[-1] - 1) * np.array(PERCENTILES) / 100
    lower, upper = (np.searchsorted(below, whole, side="right") for whole in (np.floor(places), np.ceil(places)))
    low, high = (lower + (places % 1) * (upper - lower)).tolist()
    return (low, high) if low < high else (least, most)
