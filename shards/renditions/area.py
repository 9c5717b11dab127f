"""Shrinking by area: OpenCV's INTER_AREA to the byte, in less than half of its time.

OpenCV adds up pixel by pixel, and a row that two output rows share twice. Here the same weights stand in sparse
matrices, whose products add the same float32 values in the same order, many rows at a time. SciPy's product is taken
from its own file: importing scipy.sparse as a whole would cost every process 21 MB and 0.2 s.
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

import cv2
import numpy as np

_LEAST = 1e-3  # of a pixel: a smaller part is left out, as OpenCV does
_BAND = 256  # rows at a time, which bounds what is held as float32
_TABLES = 128  # of about 12 KB each


def _product_of_scipy() -> Callable[..., None] | None:
    """None of a SciPy that keeps it elsewhere."""
    scipy = find_spec("scipy")
    folders = [f"{folder}/sparse" for folder in (scipy and scipy.submodule_search_locations) or ()]
    with contextlib.suppress(ImportError, AttributeError):
        if (spec := PathFinder.find_spec("_sparsetools", folders)) and spec.loader:
            spec.loader.exec_module(module := module_from_spec(spec))
            return module.csr_matvecs
    return None


add_product = _product_of_scipy()


def shrink(gray: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """uint8 [h, w] to uint8 of each of `shapes`, (height, width) that are nowhere larger.

    Not for a shape of which both sides divide the image's: OpenCV has a faster way there, which rounds differently.
    """
    if add_product is None:
        return [cv2.resize(gray, (across, down), interpolation=cv2.INTER_AREA) for down, across in shapes]
    height, width = gray.shape
    narrow = [np.empty((height, across), np.float32) for _, across in shapes]
    for top in range(0, height, _BAND):
        columns = cv2.transpose(gray[top : top + _BAND]).astype(np.float32)
        for each in narrow:
            cv2.transpose(_weighted(columns, each.shape[1]), each[top : top + _BAND])
    return [cv2.convertScaleAbs(_weighted(each, down)) for each, (down, _) in zip(narrow, shapes, strict=True)]


def _weighted(rows: np.ndarray, target: int) -> np.ndarray:
    """float32 [n, columns] to [target, columns]."""
    assert add_product is not None
    made = np.zeros((target, rows.shape[1]), np.float32)
    add_product(target, *rows.shape, *_weights(len(rows), target), rows.ravel(), made.ravel())
    return made


@lru_cache(_TABLES)
def _weights(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A matrix [target, source] as starts of rows, columns and values (CSR): which part of an output pixel each input
    pixel is, by OpenCV's own arithmetic."""
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
    return starts, columns[taken].astype(np.int32), values
