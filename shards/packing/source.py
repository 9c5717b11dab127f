"""One image file as gray pixels, or the reason why not.

Everything that a decoder only warns about is a reason: a damaged scan decodes to plausible gray, which no later
check would see. A sound image that is not 8-bit, gray and baseline is converted, and its kind is counted.
"""

import errno
import hashlib
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import PurePath

import cv2
import numpy as np
import simplejpeg

from shards.errors import UserError
from shards.packing.window import FULL_BITS, bits_in_use, eight_bits
from shards.releases.checksums import CHECKSUMS
from shards.storage.location import Location
from shards.storage.places import storage_of

LEAST_SIDE = 32  # pixels
MOST_PIXELS = 100_000_000  # thirteen times a radiograph; decoding more would take the memory of all workers

_MAGIC = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a JPEG's frame header
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
# What is wrong with one file and stays so until somebody repairs it (EIO: a broken sector). All else, such as a network
# disk's ESTALE or too many open files, may pass, and would reject sound images.
_ITS_OWN = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO}
_BARE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length


class RejectedImage(Exception):
    """An input file that cannot be packed. The message goes to rejects.csv; the part before a colon is counted.
    may_pass: whether the same file may be read another time, so that the next run tries again."""

    may_pass = False


def kind_of(reason: str) -> str:
    """The part of a reason that is counted."""
    return reason.split(":")[0]


@dataclass(frozen=True)
class Source:
    """gray: uint8 [h, w]; height, width: the file's own, in pixels; converted: in which ways the file was not
    8-bit gray baseline, of RGB, RGBA, CMYK, progressive, 16-bit and MONOCHROME1; pixels: the hash of its rendition of
    the size that it was decoded for (`renditions`)."""

    gray: np.ndarray
    height: int
    width: int
    converted: tuple[str, ...] = ()
    pixels: str = ""


def read(path: Location, inside: str | None = None, sha256: str | None = None) -> bytes:
    """The bytes of a file. Raises RejectedImage if it is absent, unreadable, empty, or not what was asked for.

    inside: the release's real path, out of which no link may lead; sha256: the published hash, "" if there is none.
    Raises UserError if a store fails or refuses, or a disk that is not on this machine: its images are not at fault.
    """
    if inside is not None and not (real := storage_of(path).real_path() or "").startswith(f"{inside}{os.sep}"):
        raise RejectedImage(f"outside the release: a link to {real}")
    try:
        data = storage_of(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RejectedImage("absent") from error
    except OSError as error:
        if error.errno not in _ITS_OWN:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}), which is not the image's fault; the same command continues"
            ) from error
        rejected = RejectedImage(f"unreadable: {error.strerror}")
        rejected.may_pass = error.errno == errno.EIO
        raise rejected from error
    if sha256 == "":
        raise RejectedImage(f"not listed in {CHECKSUMS}")
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise RejectedImage(f"sha256 differs from {CHECKSUMS}")
    if not data:
        raise RejectedImage("empty file")
    return data


def decode(data: bytes, least: int, name: str = "", window: str = "percentile", inverted: bool = False) -> Source:
    """Decode a JPEG or PNG to gray.

    Args:
        data: The whole file.
        least: Smallest height and width wanted, in pixels. A JPEG is decoded at its smallest scale that has both.
        name: The file's name, whose suffix must not name another kind.
        window: How 16 bits become 8 (`shards.packing.window`).
        inverted: Whether the release says MONOCHROME1: 0 is white in the file.

    Raises:
        RejectedImage: `data` is no image, another kind than `name` says, damaged in any way that the format or the
            decoder can tell, smaller than 32 pixels on a side, larger than 100 megapixels, or, under the window
            "full", a 16-bit image that uses at most 12 bits.
    """
    kind = next((kind for kind, magic in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None:
        raise RejectedImage(f"not a JPEG or PNG image: begins with {data[:12]!r}")
    said = _SUFFIXES.get(PurePath(name).suffix.lower(), kind)
    if said != kind:
        raise RejectedImage(f"wrong magic for its name: named as {said}, holds {kind}")
    found = _jpeg(data, least) if kind == "JPEG" else _png(data, window)
    return replace(found, gray=255 - found.gray, converted=(*found.converted, "MONOCHROME1")) if inverted else found


def _jpeg(data: bytes, least: int) -> Source:
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(height, width)
        # libjpeg-turbo reads colour as its Y, and CMYK as Adobe stores it, black plate included
        gray = simplejpeg.decode_jpeg(data, "GRAY", min_height=least, min_width=least, strict=True)
    except ValueError as error:
        raise RejectedImage(f"damaged JPEG: {str(error).strip().rstrip('.')}") from error
    kinds: dict[str, tuple[str, ...]] = {"Gray": (), "CMYK": ("CMYK",), "YCCK": ("CMYK",)}
    converted = kinds.get(colors, ("RGB",))
    if _frame(data) in _PROGRESSIVE:
        converted += ("progressive",)
    return Source(gray[:, :, 0], height, width, converted)


def _frame(data: bytes) -> int | None:
    """The marker of a JPEG's frame header, which tells the kind of its coding."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _SOF:
            return marker
        if marker == 0xFF or marker in _BARE:
            place += 1 if marker == 0xFF else 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _png(data: bytes, window: str) -> Source:
    _check_chunks(data)
    width, height = (int.from_bytes(data[place : place + 4], "big") for place in (16, 20))
    _check_size(height, width)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.shape[:2] != (height, width):
        raise RejectedImage("damaged PNG: cannot be decoded")
    converted: tuple[str, ...] = ()
    gray, alpha = pixels, None
    if pixels.ndim == 3:
        converted += ("RGBA",) if pixels.shape[2] == 4 else ("RGB",)
        rgb, alpha = np.ascontiguousarray(pixels[:, :, 2::-1]), pixels[:, :, 3] if pixels.shape[2] == 4 else None
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)  # by ITU-R BT.601, as a JPEG's own Y
    if pixels.dtype == np.uint16:
        gray, converted = _windowed(gray, window), (*converted, "16-bit")
        alpha = alpha if alpha is None else eight_bits(alpha, "full")
    if alpha is not None:  # on black: air
        gray = ((gray * alpha.astype(np.uint16) + 127) // 255).astype(np.uint8)
    return Source(np.ascontiguousarray(gray), height, width, converted)


def _check_chunks(data: bytes) -> None:
    """Walk a PNG's chunks and compare their checksums: OpenCV decodes a cut or flipped file without a word."""
    place, kind = len(_MAGIC["PNG"]), b""
    while kind != b"IEND":
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            raise RejectedImage(f"damaged PNG: cut at byte {len(data)}")
        before, kind = kind, data[place + 4 : place + 8]
        if zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise RejectedImage(f"damaged PNG: wrong checksum of the {kind.decode('latin-1')!r} part at byte {place}")
        if not before and (kind, length) != (b"IHDR", 13):
            raise RejectedImage("damaged PNG: does not begin with its header")
        place = end + 4


def _check_size(height: int, width: int) -> None:
    if min(height, width) < LEAST_SIDE:
        raise RejectedImage(f"smaller than {LEAST_SIDE} px: {height} x {width}")
    if height * width > MOST_PIXELS:
        raise RejectedImage(f"larger than {MOST_PIXELS // 1_000_000} megapixels: {height} x {width}")


def _windowed(gray: np.ndarray, window: str) -> np.ndarray:
    """uint16 [h, w] to uint8; under "full" an image of few bits is refused, for it would be packed nearly black."""
    bits = bits_in_use(gray)
    if window == "full" and 0 < bits < FULL_BITS:
        raise RejectedImage(
            "nearly black under --window full, pack with --window percentile or minmax: "
            f"a 16-bit image that uses {bits} bits"
        )
    return eight_bits(gray, window)
