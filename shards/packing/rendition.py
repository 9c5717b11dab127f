"""One image file in, one grayscale rendition per size out.

Decoding costs most: a 7.8-megapixel JPEG takes about 15 ms to decode at full scale and 9 ms more to shrink.
libjpeg can leave out the high frequencies while decoding (DCT scaling), so the image arrives at the smallest
scale that still covers the largest rendition, and the rest of the way is a small area resize.
"""

import io
from dataclasses import replace

import cv2
import numpy as np
import simplejpeg

from shards.dataset.pixels import pixels_hash
from shards.decoding.decoded import RejectedImage, memory_errors
from shards.packing import source
from shards.packing.options import PackOptions, Size
from shards.packing.source import Source

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


@memory_errors()
def renditions(
    data: bytes, name: str, options: PackOptions, inverted: bool = False, decoded_for: int | None = None
) -> tuple[list[bytes], Source]:
    """Every size of the bytes of a file, in the order of `options.sizes`, and what was read.

    name and inverted are those of `source.decode`; decoded_for: pixels on a side that the decoded image must cover, by
    default the largest of the sizes: the same number gives the same bytes of a size, whichever others are packed with
    it. Raises RejectedImage for whatever error a decoder raises, or MemoryError.
    """
    # pad and crop scale both sides by one factor; the shorter (crop) or longer (pad) side meets the target,
    # so asking that both sides cover the largest size is enough for all three fits.
    least = decoded_for or max(size.pixels for size in options.sizes)
    try:
        found = source.decode(data, least, name, options.window, inverted)
    except (RejectedImage, MemoryError):
        raise
    except Exception as error:
        raise RejectedImage(f"the decoder failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
    images = {side: resize(found.gray, side, options.fit) for side in {least, *(each.pixels for each in options.sizes)}}
    found = replace(found, pixels=pixels_hash(images[least]))
    return [encode(images[size.pixels], size, options.quality) for size in options.sizes], found


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
