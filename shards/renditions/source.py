"""One image file as 8-bit gray pixels, or the reason why not.

Everything that a decoder only warns about is a reason: a damaged scan decodes to plausible gray, which no later
check would see. A sound image that is not 8-bit, gray, baseline and upright is converted, and its kind is counted.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

import numpy as np

from shards.decoding import dicom, jpeg, png
from shards.decoding.decoded import Decoded, RejectedImage, memory_errors
from shards.decoding.magic import image_kind
from shards.decoding.orientation import turned
from shards.decoding.tags import Tags
from shards.errors import UserError
from shards.releases.checksums import CHECKSUMS
from shards.renditions.window import OWN, bits_in_use, check_bits, eight_bits, levelled
from shards.storage.location import Location
from shards.storage.places import storage_of

MOST_FILE_BYTES = 256_000_000  # 100 megapixels of 16 bits, stored as they are, and room

OWN_WINDOW = "by its own window"  # under the window "dicom"
NOT_INVERTED = "MONOCHROME2 against the release"  # a DICOM whose table says MONOCHROME1, which is not believed

Held = TypeVar("Held", bytes, memoryview)
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", **dict.fromkeys((".dcm", ".dicom", ".dic"), "DICOM")}
# What is wrong with one file and stays so until somebody repairs it (EIO: a broken sector). All else, such as a network
# disk's ESTALE or too many open files, may pass, and would reject sound images.
_ITS_OWN = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO}


def kind_of(reason: str) -> str:
    """The part of a reason that is counted."""
    return reason.split(":")[0]


@dataclass(frozen=True)
class Source:
    """gray: uint8 [h, w]; height, width: the file's own, in pixels, as it is to be looked at; converted: in which ways
    the file was not 8-bit gray baseline, of RGB, RGBA, CMYK, progressive, arithmetic, lossless, 16-bit, turned,
    MONOCHROME1, and of a DICOM NOT_INVERTED and OWN_WINDOW; pixels: the hash of its rendition of the size that it was
    decoded for (`renditions`); tags: a DICOM's."""

    gray: np.ndarray
    height: int
    width: int
    converted: tuple[str, ...] = ()
    pixels: str = ""
    tags: Tags | None = None


def read(path: Location, inside: str | None = None, sha256: str | None = None) -> bytes:
    """The bytes of a file. Raises RejectedImage if it is absent, unreadable, empty, or not what was asked for.

    inside: the release's real path, out of which no link may lead; sha256: the published hash, "" if there is none.
    Raises UserError if a store fails or refuses, or a disk that is not on this machine: its images are not at fault.
    """
    return _checked(path, inside, sha256, storage_of(path).read_bytes)


def read_into(room: Callable[[int], memoryview], path: Location, inside: str | None, sha256: str | None) -> int:
    """As `read`, but into what `room` gives for so many bytes; returns how many there are."""
    return len(_checked(path, inside, sha256, lambda: storage_of(path).read_into(room)))


def put_into(room: Callable[[int], memoryview], data: bytes) -> int:
    """As `read_into`, of a file that is in memory."""
    _check_length(len(data))
    if not data:
        raise RejectedImage("empty file")
    room(len(data))[:] = data
    return len(data)


def _checked(path: Location, inside: str | None, sha256: str | None, get: Callable[[], Held]) -> Held:
    if inside is not None and not (real := storage_of(path).real_path() or "").startswith(f"{inside}{os.sep}"):
        rejected = RejectedImage(f"outside the release, without --allow-links: a link to {real}")
        rejected.may_pass = True
        raise rejected
    try:
        _check_file(storage_of(path).stat())
        data = get()
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


@memory_errors()
def decode(data: bytes, least: int, name: str = "", window: str = "percentile", inverted: bool = False) -> Source:
    """Decode a JPEG, PNG or DICOM to gray.

    Args:
        data: The whole file.
        least: Smallest height and width wanted, in pixels. A JPEG is decoded at its smallest scale that has both.
        name: The file's name, whose suffix must not name another kind.
        window: How 16 bits become 8 (`shards.renditions.window`).
        inverted: Whether the release says MONOCHROME1: 0 is white in the file. A DICOM says it itself.

    Raises:
        RejectedImage: `data` is no image, another kind than `name` says, damaged in any way that the format or the
            decoder can tell, of a kind that no decoder here reads, too small, too large or too slow to decode
            (`shards.decoding.decoded`), or, under the window "full", a 16-bit image that uses at most 12 bits.
        MemoryError: There was not enough memory, which is not the image's fault.
        UserError: `data` is a DICOM, and a package that reads it is not installed.
    """
    kind = image_kind(data)
    said = _SUFFIXES.get(PurePath(name).suffix.lower(), kind)
    if said != kind:
        raise RejectedImage(f"wrong magic for its name: named as {said}, holds {kind}")
    if kind == "DICOM":  # a window is applied to the whole image
        return _of_dicom(dicom.decode(data, 0 if window == OWN else least), window, inverted)
    found = jpeg.decode(data, least) if kind == "JPEG" else png.decode(data)
    gray, alpha = found.gray, found.alpha
    if gray.dtype == np.uint16:
        gray = _windowed(gray, window)
        alpha = alpha if alpha is None else eight_bits(alpha, "full")
    if alpha is not None and alpha.min() < 255:  # on black: air
        gray = ((gray * alpha.astype(np.uint16) + 127) // 255).astype(np.uint8)
    height, width, converted = found.height, found.width, found.converted
    if found.orientation > 1:
        gray, converted = turned(gray, found.orientation), (*converted, "turned")
        height, width = (width, height) if found.orientation > 4 else (height, width)
    if inverted:
        gray, converted = 255 - gray, (*converted, "MONOCHROME1")
    return Source(np.ascontiguousarray(gray), height, width, converted)


def _check_file(found: os.stat_result | None) -> None:
    """Refuse what would be read without an end, or for hours; a folder says so itself when it is read."""
    if found and not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise RejectedImage("not a regular file: a pipe, socket or device")
    if found and stat.S_ISREG(found.st_mode):
        _check_length(found.st_size)


def _check_length(num_bytes: int) -> None:
    if num_bytes > MOST_FILE_BYTES:
        raise RejectedImage(f"larger than {MOST_FILE_BYTES // 1_000_000} MB: a file of {num_bytes:,} bytes")


def _of_dicom(found: Decoded, window: str, said_inverted: bool) -> Source:
    gray, converted, levels = found.gray, found.converted, found.levels
    if levels:
        gray, own = levelled(gray, levels, window)
        converted += (OWN_WINDOW,) if own else ()
    if levels and levels.inverted:
        converted += ("MONOCHROME1",)
    elif said_inverted:
        converted += (NOT_INVERTED,)
    return Source(np.ascontiguousarray(gray), found.height, found.width, converted, tags=found.tags)


def _windowed(gray: np.ndarray, window: str) -> np.ndarray:
    """uint16 [h, w] to uint8; under "full" an image of few bits is refused, for it would be packed nearly black."""
    if window == "full":
        check_bits(bits_in_use(gray))
    return eight_bits(gray, window)
