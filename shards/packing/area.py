"""Shrinking by area: OpenCV's INTER_AREA to the byte, in less than half of its time.

OpenCV adds up pixel by pixel, and a row that two output rows share twice. Here the same weights stand in sparse
matrices, whose products add the same float32 values in the same order, many rows at a time.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from scipy import sparse

_LEAST = 1e-3  # of a pixel: a smaller part is left out, as OpenCV does
_BAND = 512  # rows at a time, which bounds what is held as float32
_TABLES = 128  # of about 12 KB each


def shrink(gray: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """uint8 [h, w] to uint8 of each of `shapes`, (height, width) that are nowhere larger.

    Not for a shape of which both sides divide the image's: OpenCV has a faster way there, which rounds differently.
    """
    height, width = gray.shape
    narrow = [np.empty((height, across), np.float32) for _, across in shapes]
    for top in range(0, height, _BAND):
        columns = cv2.transpose(gray[top : top + _BAND]).astype(np.float32)
        for each in narrow:
            cv2.transpose(_weights(width, each.shape[1]) @ columns, each[top : top + _BAND])
    return [cv2.convertScaleAbs(_weights(height, down) @ each) for each, (down, _) in zip(narrow, shapes, strict=True)]


@lru_cache(_TABLES)
def _weights(source: int, target: int) -> sparse.csr_array:
    """float32 [target, source]: which part of an output pixel each input pixel is, by OpenCV's own arithmetic."""
    scale = 1 / (target / source)  # in two steps, as OpenCV rounds it
    begin = np.arange(target)[:, None] * scale
    end, cell = begin + scale, np.minimum(scale, source - begin)
    last = np.minimum(np.floor(end), source - 1)
    first = np.minimum(np.ceil(begin), last)
    columns = first - 1 + np.arange(int(scale) + 3)
    parts = np.where(columns < first, first - begin, np.minimum(np.where(columns < last, 1, end - last), 1))
    taken = (columns <= last) & (parts > _LEAST)
    values = (np.minimum(parts, cell) / cell)[taken].astype(np.float32)
    starts = np.append(0, np.cumsum(taken.sum(axis=1))).astype(np.int32)
    return sparse.csr_array((values, columns[taken].astype(np.int32), starts), shape=(target, source))
