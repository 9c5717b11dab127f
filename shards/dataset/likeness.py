"""Images that look alike: a signature of each, which brightness, gamma, window, size and JPEG hardly change.

It has BITS bits: the signs of an image's lowest frequencies, after its gray values were replaced by their ranks. The
first word, the 64 lowest, is the hash by which candidates are found; the others are looked at where it is near. Of a
negative all bits are others. Images with a border have a second signature, of what it frames, so that a letterboxed
image is found in a stretched one.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import simplejpeg

from shards.dataset.hamming import compiled
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

VERSION = 1  # of the signature: others are computed anew
SIDE, WORDS = 32, 4
BITS = 64 * WORDS
LEAST = 128  # pixels: what signatures and comparisons look at, if it is stored
HASH, WHOLE = 15, 72  # most bits in which the hash, and all bits, of a candidate differ
NEAREST = 8  # most candidates of an image
FLAT = 3.0  # gray levels: standard deviation of an image, below which nothing is in it
BORDER = 12  # gray levels: largest range of a row or column that is border
_ROWS = 256  # of a block
_PENDING = 2**18  # candidates of a block, before all but the nearest go
_PLACES = [(i, j) for i in range(SIDE) for j in range(SIDE) if i + j]
_LOWEST = tuple(np.array(sorted(_PLACES, key=lambda at: (at[0] ** 2 + at[1] ** 2, at))[:BITS]).T)


class Pictures:
    """A pack's images as gray pictures, the smallest rendition of at least LEAST pixels (else the largest)."""

    def __init__(self, dataset: PackedDataset):
        if not dataset.sizes:
            raise UserError(f"{dataset.root}: no size is stored here, so its images cannot be compared; copy one here")
        self.size = min((size for size in dataset.sizes if size >= LEAST), default=max(dataset.sizes))
        self._mapped = MappedSize(dataset.stored(self.size))
        self._root = dataset.root

    def __getitem__(self, row: int) -> np.ndarray:
        """uint8 [S, S], S at least LEAST if the rendition is. Raises UserError for a damaged image."""
        if self._mapped.stored.raw:
            return self._mapped.pixels(np.array([row]))[0][:, :, 0]
        try:
            return simplejpeg.decode_jpeg(self._mapped[row], "GRAY", min_height=LEAST, min_width=LEAST)[:, :, 0]
        except ValueError as error:
            words = f"catalog row {row} of {self.size} px cannot be decoded ({error})"
            raise UserError(f"{self._root}: {words}; run `cxrdali verify`") from error


@dataclass(frozen=True)
class Signatures:
    """rows: int64 [n], ascending catalog rows; inner: bool [n], of what a border frames; words: uint64 [n, WORDS]."""

    rows: np.ndarray
    inner: np.ndarray
    words: np.ndarray


def signature(image: np.ndarray) -> np.ndarray | None:
    """Of uint8 [h, w]: uint64 [WORDS]; None if nothing is in it."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if small.std() < FLAT:
        return None
    lowest = cv2.dct(equalised(small))[_LOWEST]
    return np.packbits(lowest > 0).view("<u8").astype(np.uint64)


def equalised(image: np.ndarray) -> np.ndarray:
    """Gray values by rank, equal ones at their middle: float32 as uint8 [h, w], from -0.5 to 0.5."""
    counts = np.bincount(image.ravel(), minlength=256)
    ranks = (np.cumsum(counts) - counts / 2) / image.size - 0.5
    return ranks.astype(np.float32)[image]


def framed(image: np.ndarray) -> np.ndarray | None:
    """What a border of even rows or columns frames, uint8 [h', w']; None without a border, or if little is left."""
    spans = []
    for axis in (1, 0):
        inside = np.flatnonzero(np.ptp(image, axis=axis) > BORDER)
        if not len(inside):
            return None
        spans.append(slice(int(inside[0]), int(inside[-1]) + 1))
    found = image[spans[0], spans[1]]
    return found if 0.25 * image.size <= found.size < 0.98 * image.size else None


def signatures(pictures: Pictures, rows: np.ndarray, threads: int, done: Callable[[int], object]) -> Signatures:
    """Of catalog rows, int64 [n]; done: is told how many more are. Raises UserError for a damaged image."""

    def of(some: np.ndarray) -> list[tuple[int, bool, np.ndarray]]:
        found = []
        for row in some.tolist():
            image = pictures[row]
            for inner, part in ((False, image), (True, framed(image))):
                if part is not None and (words := signature(part)) is not None:
                    found.append((row, inner, words))
        done(len(some))
        return found

    with ThreadPoolExecutor(threads) as pool:
        pieces = [rows[at : at + 256] for at in range(0, len(rows), 256)]
        made = [each for found in pool.map(of, pieces) for each in found]
    return Signatures(
        np.array([row for row, _, _ in made], dtype=np.int64),
        np.array([inner for _, inner, _ in made], dtype=bool),
        np.array([words for _, _, words in made], dtype=np.uint64).reshape(-1, WORDS),
    )


def candidates(a: Signatures, b: Signatures, threads: int, done: Callable[[int], object]) -> pd.DataFrame:
    """Pairs whose signatures differ in few bits, of each of a's images the NEAREST.

    All are compared with all, in the memory of a block: time grows with the product of both numbers.

    Returns:
        row_a, row_b, distance (bits of BITS), negative (one is the other's), inner_a, inner_b; nearest first.
    """

    def block(at: int) -> pd.DataFrame:
        found = _near(a.words[at : at + _ROWS], a.rows[at : at + _ROWS], b)
        done(min(_ROWS, len(a.rows) - at))
        return found.assign(inner_a=a.inner[at + found["place"].to_numpy(dtype=np.int64)])

    with ThreadPoolExecutor(threads) as pool:
        found = pd.concat([_EMPTY, *pool.map(block, range(0, len(a.rows), _ROWS))], ignore_index=True)
    found["inner_b"] = b.inner[found["other"].to_numpy(dtype=np.int64)]
    return _nearest(found).drop(columns=["place", "other"]).sort_values("distance", kind="stable", ignore_index=True)


_EMPTY = pd.DataFrame(
    {
        **{name: np.empty(0, dtype=np.int64) for name in ("place", "other", "row_a", "row_b", "distance")},
        **{name: np.empty(0, dtype=bool) for name in ("negative", "inner_a")},
    }
)


def _near(words: np.ndarray, rows: np.ndarray, b: Signatures) -> pd.DataFrame:
    """Of a block of a's signatures, uint64 [n, WORDS]; place, other: places in it and in b."""
    kept, start, near = _EMPTY.drop(columns="inner_a"), 0, compiled()
    first, room = np.ascontiguousarray(b.words[:, 0]), np.empty((len(b.rows) + _PENDING, 3), dtype=np.int64)
    while start < len(words):
        number, start = near(words, first, b.words, start, (HASH, WHOLE), room)
        place, other, distance = room[:number].T
        negative = distance > BITS // 2
        distance = np.where(negative, BITS - distance, distance)
        found = {"place": place, "other": other, "row_a": rows[place], "row_b": b.rows[other]}
        kept = _nearest(pd.concat([kept, pd.DataFrame({**found, "distance": distance, "negative": negative})]))
    return kept


def _nearest(found: pd.DataFrame) -> pd.DataFrame:
    """Of each image of a the NEAREST images of b."""
    found = found.sort_values(["row_a", "distance", "row_b"], kind="stable").drop_duplicates(["row_a", "row_b"])
    return found[found.groupby("row_a").cumcount() < NEAREST]
