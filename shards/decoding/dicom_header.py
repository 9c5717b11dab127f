"""A DICOM's header, read by pydicom within bounds: a file may nest, repeat and say whatever it likes.

No value gets into a message: it may be a name. pydicom's own warnings and errors quote values, so they are silenced,
or replaced by a reason that has none.
"""

import io
import logging
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from shards.decoding.decoded import RejectedImage
from shards.errors import UserError

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = ("", IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)  # transfer syntaxes of pixels that are not compressed
UNDEFINED = 0xFFFFFFFF  # as a length: up to a delimiter

_PIXELS, _FLOAT_PIXELS = 0x7FE00010, 0x7FE00008
_MOST_READS = 20_000  # of elements and items; a radiograph's header has a few hundred
_LARGEST_VALUE = 1 << 20  # bytes; a lookup table has 131,072
_MOST_INFLATED = 256_000_000  # bytes, as many as a file may have
_WANTED = (  # nothing else is ever looked at
    *("SOPClassUID", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("SOPInstanceUID", "StudyInstanceUID", "PatientID", "ViewPosition", "ViewCodeSequence", "PatientOrientation"),
    *("SeriesDescription", "PatientSex", "PatientAge", "Manufacturer", "ManufacturerModelName", "StudyDate"),
)


@dataclass(frozen=True)
class Header:
    """dataset: the elements that are wanted, as pydicom has them; syntax: of the transfer, "" if the file does not say;
    kind: what it is in the standard's words, "" for what the standard does not have; body: the file, or what was
    deflated in it; little: its order of bytes; place, length: of its pixels in `body`, 0 if it has none (length may be
    UNDEFINED); words: they are said to be of two bytes."""

    dataset: Any
    syntax: str
    kind: str
    body: bytes
    little: bool
    place: int = 0
    length: int = 0
    words: bool = False


def values(dataset: Any, keyword: str) -> list:
    """Of an element; none where it is absent or empty. Raises RejectedImage if it cannot be read."""
    try:
        found = dataset.get(keyword)
    except MemoryError:
        raise
    except Exception:
        raise RejectedImage(f"damaged DICOM: {keyword} cannot be read") from None
    if found is None or found == "":
        return []
    return list(found) if isinstance(found, Sequence) and not isinstance(found, (str, bytes)) else [found]


def text(dataset: Any, keyword: str) -> str:
    r"""Several values with \ between them; "" where there is none, or none that can be read."""
    try:
        return "\\".join(map(str, values(dataset, keyword))).strip(" \0\t\r\n")
    except RejectedImage:
        return ""


def number(dataset: Any, keyword: str, default: float | None = None) -> float:
    """The first value, whole or not. Raises RejectedImage if there is none and no default, or it is no number."""
    found = next(iter(values(dataset, keyword)), default)
    if not (isinstance(found, (int, float)) and isfinite(found)):
        raise RejectedImage(f"damaged DICOM: {keyword} is missing or no number")
    return found


def not_installed(error: ModuleNotFoundError) -> UserError:
    package = (error.name or "").partition(".")[0]
    return UserError(f"a DICOM is read by {package}, which is not installed: pip install 'cxrdali[dicom]'")


def read_header(data: bytes, most_inflated: int = _MOST_INFLATED) -> Header:
    """Of a whole file, or of its first bytes. most_inflated: bytes of a deflated one that are looked at.

    Raises RejectedImage, or UserError without pydicom.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    try:
        return _read(data, most_inflated)
    except (RejectedImage, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise not_installed(error) from error
    except Exception:  # of pydicom; RecursionError for what is nested too deep
        raise RejectedImage("damaged DICOM: its header cannot be read") from None


class _Bounded(io.BytesIO):
    """A file that is read only so often, and only so much at a time."""

    reads = 0

    def read(self, num_bytes: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise RejectedImage(f"damaged DICOM: more than {_MOST_READS:,} elements in its header")
        if num_bytes is None or not 0 <= num_bytes <= _LARGEST_VALUE:
            raise RejectedImage(f"damaged DICOM: an element of more than {_LARGEST_VALUE:,} bytes in its header")
        return super().read(num_bytes)


def _read(data: bytes, most_inflated: int) -> Header:
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import UID

    file: Any = _Bounded(data)
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = text(meta, "TransferSyntaxUID")
    if syntax == DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[file.tell() :], most_inflated)
        file = _Bounded(data)
    begins_low = data[file.tell() : file.tell() + 1] != b"\0"  # with group 8, as old files do that name no syntax
    little = syntax != BIG_ENDIAN and (syntax != "" or begins_low)
    pixels = [(0, 0, False)]

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag == _PIXELS:
            pixels.append((file.tell(), length, vr == "OW"))
        return tag >= _FLOAT_PIXELS

    wanted: list[Any] = [tag_for_keyword(keyword) for keyword in _WANTED]
    implicit = little and syntax in ("", IMPLICIT)
    dataset = read_dataset(file, implicit, little, None, at_pixels, _LARGEST_VALUE, specific_tags=wanted)
    uid = UID(text(dataset, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID"))
    kind = uid.name if uid.type else ""  # what the standard does not have is its own name
    return Header(dataset, syntax, kind, data, little, *pixels[-1])
