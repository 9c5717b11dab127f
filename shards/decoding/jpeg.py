"""A JPEG as gray values, by libjpeg-turbo (simplejpeg), at the smallest of its scales that is large enough.

What libjpeg only warns about is a reason to reject: a damaged scan decodes to plausible gray.
"""

import cv2
import numpy as np
import simplejpeg

from shards.decoding.decoded import Decoded, RejectedImage, memory_errors, unsupported
from shards.decoding.jpeg_frame import Frame, read_frame
from shards.decoding.orientation import orientation_of
from shards.decoding.second import decode_odd


def decode(data: bytes, least: int) -> Decoded:
    """Decode a whole file. least: smallest height and width wanted, in pixels. Raises RejectedImage."""
    frame = read_frame(data)
    orientation = orientation_of(frame.exif, frame.xmp)
    return Decoded(_gray(data, frame, least), frame.height, frame.width, orientation, None, frame.converted)


def _gray(data: bytes, frame: Frame, least: int) -> np.ndarray:
    """uint8 [h, w]."""
    # libjpeg cannot scale a lossless file, but simplejpeg 1.9 makes room for the scaled one only: it writes beyond
    scale = {} if frame.lossless else {"min_height": least, "min_width": least}
    # libjpeg-turbo reads colour as its Y, and CMYK as Adobe stores it, black plate included; lossless colour as it is
    colours = "RGB" if frame.lossless and frame.components == 3 else "GRAY"
    try:
        with memory_errors():
            pixels = simplejpeg.decode_jpeg(data, colours, strict=True, **scale)
    except ValueError as error:
        words = str(error).strip().rstrip(".")
        if "subsampling" in words:  # it knows seven, the format has hundreds
            return decode_odd(data, frame)
        if "color conversion" in words:
            raise unsupported("a lossless JPEG in YCbCr or YCCK") from error
        raise RejectedImage(f"damaged JPEG: {words}") from error
    if (white := 2**frame.bits - 1) < 255:  # a lossless file may have 2 to 7 bits, which are spread as those of a PNG
        pixels = ((pixels.astype(np.uint16) * 255 + white // 2) // white).astype(np.uint8)
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if colours == "RGB" else pixels[:, :, 0]
