"""One image file in, one grayscale rendition per size out.

Decoding costs most: a 7.8-megapixel JPEG takes about 15 ms to decode at full scale and 9 ms more to shrink.
libjpeg can leave out the high frequencies while decoding (DCT scaling), so the image arrives at the smallest
scale that still covers the largest rendition, and the rest of the way is a small area resize.
"""

import io

import cv2
import numpy as np
import simplejpeg

from shards.packing import source
from shards.packing.options import PackOptions, Size
from shards.packing.source import RejectedImage, Source
from shards.storage.location import Location

_STRIPS = 4


def resize(gray: np.ndarray, side: int, fit: str) -> np.ndarray:
    """uint8 [h, w] to uint8 [side, side]: squash (as the stage-training paper), pad with black, or crop the centre."""
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
    path: Location, options: PackOptions, inside: str | None = None, sha256: str | None = None, inverted: bool = False
) -> tuple[list[bytes], Source]:
    """Every size of one file, in the order of `options.sizes`, and what was read.

    inside and sha256 are those of `source.read`, inverted that of `source.decode`. Raises RejectedImage
    (`shards.packing.source`).
    """
    return renditions_of(source.read(path, inside, sha256), path.name, options, inverted)


def renditions_of(data: bytes, name: str, options: PackOptions, inverted: bool = False) -> tuple[list[bytes], Source]:
    """`renditions` of the bytes of a file. Raises RejectedImage for whatever error a decoder raises."""
    # pad and crop scale both sides by one factor; the shorter (crop) or longer (pad) side meets the target,
    # so asking that both sides cover the largest size is enough for all three fits.
    largest = max(size.pixels for size in options.sizes)
    try:
        found = source.decode(data, largest, name, options.window, inverted)
    except (RejectedImage, MemoryError):
        raise
    except Exception as error:
        raise RejectedImage(f"the decoder failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
    images = (resize(found.gray, size.pixels, options.fit) for size in options.sizes)
    return [encode(image, size, options.quality) for image, size in zip(images, options.sizes, strict=True)], found


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
