"""A DICOM's header, read by pydicom within bounds: a file may nest, repeat and promise whatever it likes.

No value of an element gets into a message: it may be a name. pydicom's own warnings and errors quote values, so they
are silenced, or replaced by a reason that has none.
"""

import io
import logging
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from shards.decoding.decoded import RejectedImage, unsupported
from shards.errors import UserError

BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF  # as a length: up to a delimiter

_IMPLICIT = "1.2.840.10008.1.2"
_PIXELS, _FLOAT_PIXELS = 0x7FE00010, (0x7FE00008, 0x7FE00009)
_MOST_READS = 100_000  # of elements and items; a radiograph's header has a few hundred
_LARGEST_VALUE = 1 << 20  # bytes; a lookup table has 131,072
_MOST_INFLATED = 256_000_000  # bytes, as many as a file may have
# Only these are ever looked at: of the image, of its gray values, and for `shards.decoding.tags`.
_WANTED = (
    *("SOPClassUID", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction"),
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("SOPInstanceUID", "StudyInstanceUID", "PatientID", "ViewPosition", "ViewCodeSequence", "PatientOrientation"),
    *("SeriesDescription", "PatientSex", "PatientAge", "Manufacturer"),
)


class Elements:
    """Elements of a DICOM, or of an item in it, by their keywords."""

    def __init__(self, dataset: Any, little: bool):
        self.dataset, self.little = dataset, little

    def values(self, keyword: str) -> list:
        """None of them where the element is absent or empty. Raises RejectedImage if it cannot be read."""
        try:
            found = self.dataset.get(keyword)
        except MemoryError:
            raise
        except Exception:
            raise RejectedImage(f"damaged DICOM: {keyword} cannot be read") from None
        if found is None or found == "":
            return []
        return list(found) if isinstance(found, Sequence) and not isinstance(found, (str, bytes)) else [found]

    def text(self, keyword: str) -> str:
        r"""Several values with \ between them; "" where there is none, or none that can be read."""
        try:
            return "\\".join(str(each) for each in self.values(keyword)).strip(" \0\t\r\n")
        except RejectedImage:
            return ""

    def whole(self, keyword: str, default: int | None = None) -> int:
        """The first value. Raises RejectedImage if there is none and no default, or no number."""
        values = self.values(keyword)
        if not values and default is not None:
            return default
        if not values or not isinstance(values[0], int):
            raise RejectedImage(f"damaged DICOM: {keyword} is missing or no number")
        return int(values[0])

    def real(self, keyword: str) -> float | None:
        """The first value, None if there is none. Raises RejectedImage if it is no number."""
        values = self.values(keyword)
        if values and not (isinstance(values[0], (int, float)) and np.isfinite(values[0])):
            raise RejectedImage(f"damaged DICOM: {keyword} is no number")
        return float(values[0]) if values else None

    def shorts(self, keyword: str, signed: bool = False) -> list[int]:
        """As 16-bit numbers, whatever kind the file says that they are."""
        data = self.raw(keyword)
        kind = f"{'<' if self.little else '>'}{'i' if signed else 'u'}2"
        return np.frombuffer(data[: len(data) // 2 * 2], kind).tolist()

    def raw(self, keyword: str) -> bytes:
        """The bytes in the file, b"" if the element is absent."""
        found = self.dataset.get_item(keyword) if keyword in self.dataset else None
        value = getattr(found, "value", None)
        return value if isinstance(value, bytes) else b""

    def items(self, keyword: str) -> list["Elements"]:
        """Of a sequence."""
        return [Elements(each, self.little) for each in self.values(keyword)]


@dataclass(frozen=True)
class Header:
    """elements: those that are wanted; syntax: of the transfer, "" if the file does not say; kind: what it is, in the
    standard's words, "" for what the standard does not have; body: the file, or what was deflated in it; place, length:
    of its pixels in `body`, 0 if it has none (length may be UNDEFINED); words: they are said to be of two bytes."""

    elements: Elements
    syntax: str
    kind: str
    body: bytes
    place: int = 0
    length: int = 0
    words: bool = False


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


@cache
def pydicom() -> ModuleType:
    """The package, which says nothing from now on. Raises UserError without it."""
    try:
        import pydicom
        import pydicom.filereader
    except ImportError as error:
        raise UserError("a DICOM is read by pydicom, which is not installed: pip install 'cxrdali[dicom]'") from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    return pydicom


def read_header(data: bytes, most_inflated: int = _MOST_INFLATED) -> Header:
    """Of a whole file, or of its first bytes. most_inflated: bytes of a deflated one that are looked at.

    Raises RejectedImage.
    """
    pydicom()
    try:
        return _read(data, most_inflated)
    except (RejectedImage, MemoryError):
        raise
    except Exception:  # of pydicom, whose messages quote values; RecursionError for what is nested too deep
        raise RejectedImage("damaged DICOM: its header cannot be read") from None


def _read(data: bytes, most_inflated: int) -> Header:
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import UID

    file: Any = _Bounded(data)
    read_preamble(file, force=True)
    meta = Elements(read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2), True)
    syntax = meta.text("TransferSyntaxUID")
    if syntax == DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[file.tell() :], most_inflated)
        file = _Bounded(data)
    first = data[file.tell() : file.tell() + 1]
    little = syntax != BIG_ENDIAN and (syntax != "" or first != b"\0")  # old files do not say; they begin with group 8
    found: list[tuple[int, int, int, bool]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag >= _FLOAT_PIXELS[0]:
            found.append((tag, file.tell(), length, vr == "OW"))
        return tag >= _FLOAT_PIXELS[0]

    wanted: list[Any] = [tag_for_keyword(keyword) for keyword in _WANTED]
    implicit = little and syntax in ("", _IMPLICIT)
    dataset = read_dataset(file, implicit, little, None, at_pixels, _LARGEST_VALUE, specific_tags=wanted)
    elements = Elements(dataset, little)
    uid = elements.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID")
    name = UID(uid).name
    kind = "" if name == uid else name
    tag, place, length, words = found[-1] if found else (0, 0, 0, False)
    if tag in _FLOAT_PIXELS:
        raise unsupported("a DICOM of floating-point values", "a 16-bit PNG")
    return Header(elements, syntax, kind, data, *((place, length, words) if tag == _PIXELS else ()))
