"""From 16 bits to 8: which values become black and white.

Radiographs are stored in 16-bit files with 10 to 16 bits in use, and the loaders of the field differ: over 65,535
(TorchXRayVision; the loss-design paper), or between percentiles, which no bright marker or white border moves. A
DICOM may name a window of its own, which "dicom" asks for: vendors choose it, and in some releases it lies beside the
values (CheXpert Plus).
"""

import cv2
import numpy as np

from shards.decoding.decoded import Levels, RejectedImage

OWN = "dicom"
LEAST_SEEN = 0.1  # of an image's pixels that are neither black nor white under a window of its own that can be used
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
    ends = (0.0, _VALUES - 1.0) if window == "full" else None
    return levelled(pixels, Levels(np.arange(_VALUES, dtype=np.float64), ends), window)[0]


def levelled(pixels: np.ndarray, levels: Levels, window: str) -> tuple[np.ndarray, bool]:
    """As `eight_bits`, of what the numbers in `pixels` (uint8 or uint16) mean; and whether by the file's own window.

    That is asked for by "dicom", and used if it leaves LEAST_SEEN of the pixels between black and white; otherwise
    "dicom" is "percentile". Padding is black, and no window counts it.

    Raises RejectedImage if all is padding, or as `check_bits`.
    """
    counts = _histogram(pixels)
    if levels.padding is not None:
        counts[levels.padding] = 0
    if not counts.any():
        raise RejectedImage("no pixels: all are padding")
    table, own = _table(levels, counts, window)
    if levels.inverted:
        table = 255 - table
    if levels.padding is not None:
        table[levels.padding] = 0
    return _looked_up(table, pixels), own


def _table(levels: Levels, counts: np.ndarray, window: str) -> tuple[np.ndarray, bool]:
    """uint8: the shade of each number; and whether by the file's own window."""
    if window == OWN and levels.own is not None:
        table = _rounded(levels.own)
        if counts[(table > 0) & (table < 255)].sum() >= LEAST_SEEN * counts.sum():
            return table, True
    low, high = levels.ends or _limits(levels.values, counts, window)
    return _rounded((levels.values - low) / (high - low if high > low else np.inf)), False


def check_bits(bits: int) -> None:
    """Raises RejectedImage for an image of few bits under the window "full": it would be packed nearly black."""
    if 0 < bits < FULL_BITS:
        raise RejectedImage(
            "nearly black under --window full, pack with --window percentile or minmax: "
            f"a 16-bit image that uses {bits} bits"
        )


def _looked_up(table: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    try:
        return cv2.LUT(pixels, table[None])  # three times as fast; OpenCV 4 has none for 16 bits
    except cv2.error:
        flat, made = pixels.ravel(), np.empty(pixels.size, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        part = slice(start, start + _BLOCK)
        np.take(table, flat[part], out=made[part], mode="clip")
    return made.reshape(pixels.shape)


def _rounded(shades: np.ndarray) -> np.ndarray:
    return np.floor(shades.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def bits_in_use(pixels: np.ndarray) -> int:
    """The smallest number of bits that holds the brightest pixel; 0 for an image of zeros."""
    return int(pixels.max()).bit_length()


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """int64 [256] or [65536]: how many pixels have each value."""
    flat, values = pixels.ravel(), np.iinfo(pixels.dtype).max + 1
    counts = np.zeros(values, dtype=np.int64)
    for start in range(0, len(flat), _COUNTED):  # five times as fast as np.bincount
        part = flat[start : start + _COUNTED][None]
        counts += cv2.calcHist([part], [0], None, [values], [0, values]).ravel().astype(np.int64)
    return counts


def _limits(values: np.ndarray, counts: np.ndarray, window: str) -> tuple[float, float]:
    """Of black and white. values: in any order, each as often as `counts` says."""
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    present = values[counts > 0]
    least, most = float(present[0]), float(present[-1])
    if window == "full":
        check_bits(int(most).bit_length())
        return 0.0, _VALUES - 1.0
    if window == "minmax":
        return least, most
    # the k-th smallest pixel is the first value whose count from below is more than k: no sorting of 8 megapixels
    below = np.cumsum(counts)
    places = (below[-1] - 1) * np.array(PERCENTILES) / 100
    lower, upper = (values[np.searchsorted(below, at, side="right")] for at in (np.floor(places), np.ceil(places)))
    low, high = (lower + (places % 1) * (upper - lower)).tolist()
    return (low, high) if low < high else (least, most)
