"""A PNG as gray values: its parts checked and its pixels inflated here, then unfiltered by OpenCV.

OpenCV decodes a cut or flipped file without a word, and libpng goes on inflating long after the last row. So OpenCV
gets nothing but checked pixels: no colour profile, text or second frame reaches it.
"""

import struct
import zlib

import cv2
import numpy as np

from shards.decoding.decoded import Decoded, RejectedImage, check_memory, memory_errors
from shards.decoding.orientation import orientation_of
from shards.decoding.png_parts import CHANNELS, GRAY, MAGIC, PALETTE, RGB, Header, Parts, read_parts

_TO_GRAY = {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY}  # by ITU-R BT.601, as a JPEG's own Y


def decode(data: bytes) -> Decoded:
    """Decode a whole file. Raises RejectedImage."""
    parts = read_parts(data)
    header = parts.header()
    pixels = _unfiltered(header, _plain_file(header, _inflated(header, parts.of[b"IDAT"])))
    gray, alpha = _gray_and_alpha(header, pixels, parts)
    said = {"RGBA": alpha is not None, "RGB": alpha is None and header.colours != GRAY, "16-bit": header.depth == 16}
    converted = tuple(word for word, true in said.items() if true)
    orientation = orientation_of(parts.exif(), parts.text(b"iTXt", b"XML:com.adobe.xmp"))
    return Decoded(gray, header.height, header.width, orientation, alpha, converted)


def _inflated(header: Header, compressed: list[memoryview]) -> bytes:
    """The filtered rows, as many as the header says; nothing beyond is inflated."""
    expected = sum(rows * row for rows, row in header.passes)
    inflate = zlib.decompressobj()
    try:
        filtered = inflate.decompress(b"".join(compressed) if compressed[1:] else compressed[0], expected + 1)
    except zlib.error as error:
        raise RejectedImage(f"damaged PNG: {error}") from error
    if len(filtered) != expected or not inflate.eof:
        said = "more" if len(filtered) > expected else "less" if len(filtered) < expected else "no checksum behind its"
        raise RejectedImage(f"damaged PNG: {said} pixels than its header says")
    place, filters = 0, np.frombuffer(filtered, np.uint8)
    for rows, row in header.passes:
        if filters[place : place + rows * row : row].max() > 4:
            raise RejectedImage("damaged PNG: unknown filter of a row")
        place += rows * row
    return filtered


def _plain_file(header: Header, filtered: bytes) -> bytes:
    """A PNG of nothing but the pixels, not compressed again; a palette's numbers as gray values."""
    colours = GRAY if header.colours == PALETTE else header.colours
    facts = struct.pack(">IIBBBBB", header.width, header.height, header.depth, colours, 0, 0, header.interlaced)
    pieces = [MAGIC]
    for kind, body in ((b"IHDR", facts), (b"IDAT", zlib.compress(filtered, 0)), (b"IEND", b"")):
        pieces += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))]
    return b"".join(pieces)


def _unfiltered(header: Header, plain: bytes) -> np.ndarray:
    """uint8 or uint16 [h, w] or [h, w, channels] as BGR; values of 1, 2 and 4 bits are spread over 0 to 255."""
    try:
        with memory_errors():
            pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        check_memory(header.num_bytes)
        raise RejectedImage("damaged PNG: cannot be decoded")
    return pixels


def _gray_and_alpha(header: Header, pixels: np.ndarray, parts: Parts) -> tuple[np.ndarray, np.ndarray | None]:
    see = parts.first(b"tRNS")
    if header.colours == PALETTE:
        return _of_palette(header, pixels, parts.first(b"PLTE"), see)
    gray = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, _TO_GRAY[pixels.shape[2]])
    if header.colours not in (GRAY, RGB):
        return gray, cv2.extractChannel(pixels, 3)
    if not parts.of[b"tRNS"]:
        return gray, None
    channels = CHANNELS[header.colours]
    if len(see) != 2 * channels:
        raise RejectedImage(f"damaged PNG: {len(see)} bytes say which value is transparent")
    full = np.iinfo(pixels.dtype).max
    # the value as the file has it, of which the higher bits do not count; BGR
    keys = [(int(key) & 2**header.depth - 1) * full // (2**header.depth - 1) for key in np.frombuffer(see, ">u2")][::-1]
    seen = np.zeros(gray.shape, bool)
    for channel, key in enumerate(keys):
        seen |= (pixels if channels == 1 else pixels[:, :, channel]) != key
    return gray, seen * np.array(full, pixels.dtype)


def _of_palette(
    header: Header, pixels: np.ndarray, palette: bytes, transparent: bytes
) -> tuple[np.ndarray, np.ndarray | None]:
    numbers = pixels // (255 // (2**header.depth - 1))
    colours = len(palette) // 3
    if len(palette) % 3 or colours > 2**header.depth or len(transparent) > colours:
        raise RejectedImage(f"damaged PNG: a palette of {len(palette)} bytes, {len(transparent)} for transparency")
    if numbers.max() >= colours:
        raise RejectedImage(f"damaged PNG: a pixel has colour {int(numbers.max()) + 1} of {colours}")
    gray = cv2.cvtColor(np.frombuffer(palette, np.uint8).reshape(1, -1, 3), cv2.COLOR_RGB2GRAY)[0]
    alpha = np.frombuffer(transparent.ljust(colours, b"\xff"), np.uint8)
    return gray[numbers], alpha[numbers] if transparent else None
