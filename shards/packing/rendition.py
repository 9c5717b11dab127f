"""One image file in, one grayscale rendition per size out.

The decode is the bill: a 7.8-megapixel JPEG costs about 15 ms to read at full scale and 9 ms more to shrink.
libjpeg can leave out the high frequencies while decoding (DCT scaling), so the image arrives at the smallest
scale that still covers the largest rendition, and the rest of the way is a small area resize.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from shards.errors import UserError
from shards.packing import source
from shards.packing.source import Source

FITS = ("squash", "pad", "crop")
MIN_PIXELS, MAX_PIXELS = 32, 4096

_STRIPS = 4


@dataclass(frozen=True)
class Size:
    """One stored size: the side in pixels, and whether it is stored raw (npy) or as JPEG."""

    pixels: int
    raw: bool = False

    def __post_init__(self):
        if not MIN_PIXELS <= self.pixels <= MAX_PIXELS:
            raise UserError(f"size {self.pixels}: a rendition's side is {MIN_PIXELS} to {MAX_PIXELS} pixels")

    @classmethod
    def parse(cls, text: str) -> "Size":
        """ "224" is stored as JPEG, "224:raw" as uint8 [224, 224] in a .npy."""
        pixels, _, encoding = text.strip().partition(":")
        if not (pixels.isascii() and pixels.isdigit()) or encoding not in ("", "raw", "jpeg"):
            raise UserError(f"size {text.strip()!r}: write pixels, or pixels:raw, for example 224:raw,320,512")
        return cls(int(pixels), encoding == "raw")

    @property
    def folder(self) -> str:
        return str(self.pixels)

    @property
    def extension(self) -> str:
        return "npy" if self.raw else "jpg"

    @property
    def encoding(self) -> str:
        return "raw" if self.raw else "jpeg"


def resize(gray: np.ndarray, side: int, fit: str) -> np.ndarray:
    """uint8 [h, w] to uint8 [side, side]: squash (the paper's), pad with black, or crop the centre."""
    height, width = gray.shape
    if fit == "squash":
        return _scale(gray, side, side)
    if fit == "crop":
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        return _scale(np.ascontiguousarray(gray[top : top + edge, left : left + edge]), side, side)
    scale = side / max(height, width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    canvas = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - inner_height) // 2, (side - inner_width) // 2
    canvas[top : top + inner_height, left : left + inner_width] = _scale(gray, inner_height, inner_width)
    return canvas


def encode(image: np.ndarray, size: Size, quality: int) -> bytes:
    """uint8 [S, S] as the bytes of KEY.jpg or KEY.npy."""
    if size.raw:
        buffer = io.BytesIO()
        np.save(buffer, image)
        return buffer.getvalue()
    return simplejpeg.encode_jpeg(image[:, :, None], quality=quality, colorspace="GRAY")


def renditions(
    path: Path,
    sizes: tuple[Size, ...],
    fit: str,
    quality: int,
    inside: str | None = None,
    sha256: str | None = None,
    window: str = "percentile",
    inverted: bool = False,
) -> tuple[list[bytes], Source]:
    """Every size of one file, in the order of `sizes`, and what was read. Raises RejectedImage
    (`shards.packing.source`).

    inside and sha256 are those of `source.read`, window and inverted those of `source.decode`.
    """
    data = source.read(path, inside, sha256)
    # pad and crop scale both sides by one factor; the shorter (crop) or longer (pad) side meets the target,
    # so asking that both sides cover the largest size is enough for all three fits.
    found = source.decode(data, max(size.pixels for size in sizes), path.name, window, inverted)
    return [encode(resize(found.gray, size.pixels, fit), size, quality) for size in sizes], found


def _scale(gray: np.ndarray, height: int, width: int) -> np.ndarray:
    if gray.shape == (height, width):
        return gray
    shrinks = height <= gray.shape[0] and width <= gray.shape[1]
    if not shrinks:  # INTER_AREA averages when shrinking, but turns into nearest-like blocks when enlarging
        return cv2.resize(gray, (width, height), interpolation=cv2.INTER_LINEAR)
    if gray.shape[0] % _STRIPS or height % _STRIPS:
        return cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
    # The same pixels a fifth faster: no output pixel averages across the border of two quarters of the height, and
    # OpenCV shrinks four channels at once, so each quarter goes as a channel.
    strips = cv2.merge(np.split(gray, _STRIPS))
    small = cv2.resize(strips, (width, height // _STRIPS), interpolation=cv2.INTER_AREA)
    return np.concatenate(cv2.split(small))
