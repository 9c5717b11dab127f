"""What a decoder hands on, why it may refuse, and how large an image may be."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from shards.decoding.tags import Tags

LEAST_SIDE = 32  # pixels
MOST_PIXELS = 100_000_000  # thirteen times a radiograph; decoding more would take the memory of all workers
MOST_BYTES = 400_000_000  # of an image in a decoder's memory
MOST_PARTS = 1_000_000  # JPEG markers or PNG chunks of one file: they are walked in Python


class RejectedImage(Exception):
    """An input file that cannot be packed. The message goes to rejects.csv; the part before a colon is counted.
    may_pass: whether the same file may be read another time, so that the next run tries again."""

    may_pass = False


@dataclass(frozen=True)
class Levels:
    """What the numbers in a DICOM's pixels mean: an entry for each of the 256 or 65,536 that there may be.

    Attributes:
        values: float64, after the modality LUT: what windows compare.
        ends: The values of black and white if no window is to choose them, as in 8-bit images.
        own: float64, 0 black to 1 white, by the file's own VOI LUT or window; None without.
        padding: bool, numbers that are no part of the image and become black; None without.
        inverted: MONOCHROME1: the lowest is white.
    """

    values: np.ndarray
    ends: tuple[float, float] | None = None
    own: np.ndarray | None = None
    padding: np.ndarray | None = None
    inverted: bool = False


@dataclass(frozen=True)
class Decoded:
    """A file's own values, as they are stored.

    gray, alpha: uint8 or uint16 [h, w], alpha None where all is opaque; height, width: the file's, in pixels, which a
    JPEG decoded at a smaller scale does not have; orientation: 1 to 8, as `shards.decoding.orientation` has them;
    converted: in which ways the file was not 8-bit gray baseline; levels: what a DICOM's numbers mean; tags: a DICOM's.
    """

    gray: np.ndarray
    height: int
    width: int
    orientation: int = 1
    alpha: np.ndarray | None = None
    converted: tuple[str, ...] = ()
    levels: Levels | None = None
    tags: "Tags | None" = None


def unsupported(what: str, into: str = "a PNG") -> RejectedImage:
    """A sound file that nothing here can read."""
    return RejectedImage(f"not supported: {what}; convert it to {into} first")


def check_size(height: int, width: int, num_bytes: int) -> None:
    """Raises RejectedImage for an image that is too small or too large. num_bytes: what it takes in memory."""
    if min(height, width) < LEAST_SIDE:
        raise RejectedImage(f"smaller than {LEAST_SIDE} px: {height} x {width}")
    if height * width > MOST_PIXELS:
        raise RejectedImage(f"larger than {MOST_PIXELS // 1_000_000} megapixels: {height} x {width}")
    if num_bytes > MOST_BYTES:
        raise RejectedImage(
            f"larger than {MOST_BYTES // 1_000_000} MB in memory: {height} x {width} take {num_bytes // 1_000_000} MB"
        )


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """What OpenCV and simplejpeg raise where memory is missing becomes a MemoryError."""
    try:
        yield
    except (cv2.error, ValueError) as error:
        if "memory" not in str(error).lower():
            raise
        raise MemoryError(" ".join(str(error).split())) from error


def check_memory(num_bytes: int) -> None:
    """Raises MemoryError if that much cannot be had: some decoders say no more than that they failed."""
    np.empty(num_bytes, np.uint8)
