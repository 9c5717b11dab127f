"""One image file in, one grayscale rendition per size out.

Decoding costs most: a 7.8-megapixel JPEG takes about 15 ms to decode at full scale and 9 ms more to shrink.
libjpeg can leave out the high frequencies while decoding (DCT scaling), so the image arrives at the smallest
scale that still covers the largest rendition, and the rest of the way is a small area resize.
"""

import io
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.metadata import version

import cv2
import numpy as np
import simplejpeg

from shards.dataset.pixels import pixels_hash
from shards.decoding.decoded import RejectedImage, memory_errors
from shards.errors import UserError
from shards.renditions import source
from shards.renditions.area import shrink
from shards.renditions.options import RenditionOptions, Size
from shards.renditions.source import Source


def resize(gray: np.ndarray, side: int, fit: str) -> np.ndarray:
    """uint8 [h, w] to uint8 [side, side]: squash (as the stage-training paper), pad with black, or crop the centre."""
    return resized(gray, [side], fit)[side]


def resized(gray: np.ndarray, sides: Collection[int], fit: str) -> dict[int, np.ndarray]:
    """What `resize` makes, of several sides at once."""
    height, width = gray.shape
    if fit == "crop":
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        gray = np.ascontiguousarray(gray[top : top + edge, left : left + edge])
    shapes = [(side, side) for side in sides]
    if fit == "pad":
        longer = max(height, width)
        shapes = [(max(1, round(height * (s / longer))), max(1, round(width * (s / longer)))) for s in sides]
    images = dict(zip(sides, _scaled(gray, shapes), strict=True))
    return {side: _on_black(image, side) for side, image in images.items()} if fit == "pad" else images


def encode(image: np.ndarray, size: Size, quality: int) -> bytes:
    """uint8 [S, S] as the bytes of KEY.jpg or KEY.npy."""
    if size.raw:
        buffer = io.BytesIO()
        np.save(buffer, image)
        return buffer.getvalue()
    return simplejpeg.encode_jpeg(image[:, :, None], quality=quality, colorspace="GRAY")


def encoders() -> dict[str, str]:
    """The versions of the libraries on which the bytes depend."""
    return {"simplejpeg": version("simplejpeg"), "opencv": cv2.__version__}


@memory_errors()
def renditions(
    data: bytes, name: str, options: RenditionOptions, inverted: bool = False, decoded_for: int | None = None
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
    except (RejectedImage, MemoryError, UserError):
        raise
    except Exception as error:
        raise RejectedImage(f"the decoder failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
    images = resized(found.gray, {least, *(each.pixels for each in options.sizes)}, options.fit)
    found = replace(found, pixels=pixels_hash(images[least]))
    return [encode(images[size.pixels], size, options.quality) for size in options.sizes], found


def _scaled(gray: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """By area where an image shrinks; `shrink` makes all that it can at once."""
    height, width = gray.shape
    made, together = dict.fromkeys(shapes, gray), []
    for down, across in made:
        if down > height or across > width:  # INTER_AREA turns into nearest-like blocks when enlarging
            made[down, across] = cv2.resize(gray, (across, down), interpolation=cv2.INTER_LINEAR)
        elif height % down or width % across:
            together.append((down, across))
        elif (down, across) != (height, width):
            made[down, across] = cv2.resize(gray, (across, down), interpolation=cv2.INTER_AREA)
    if together:
        made |= zip(together, shrink(gray, together), strict=True)
    return [made[shape] for shape in shapes]


def _on_black(image: np.ndarray, side: int) -> np.ndarray:
    """In the centre of uint8 [side, side]."""
    height, width = image.shape
    canvas = np.zeros((side, side), dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas
