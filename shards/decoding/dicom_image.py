"""What a DICOM's header says of its pixels, checked before any of them is touched."""

from dataclasses import dataclass

from shards.decoding.decoded import RejectedImage, check_size, unsupported
from shards.decoding.dicom_header import Header, number, text

_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")  # the last two of JPEG 2000


@dataclass(frozen=True)
class Image:
    """By the standard's names, as pydicom's decoders take them. shift: bits of a number below the `bits_stored` that
    are its value; signed: the highest of these is a sign."""

    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    planar_configuration: int
    bits_allocated: int
    bits_stored: int
    shift: int
    signed: bool

    @property
    def coloured(self) -> bool:
        return self.samples_per_pixel == 3


def read_image(header: Header) -> Image:
    """Raises RejectedImage if the file has no image, or one that nothing here reads."""

    def whole(keyword: str, default: int | None = None) -> int:
        return int(number(header.dataset, keyword, default))

    if not header.place:
        what = f"a DICOM of the kind {header.kind}" if header.kind else "a DICOM"
        raise RejectedImage(f"no pixels: {what} without any of whole numbers, or cut off before them")
    if whole("NumberOfFrames", 1) > 1:
        raise unsupported("a DICOM of several frames")
    rows, columns, samples = whole("Rows"), whole("Columns"), whole("SamplesPerPixel", 1)
    allocated, bits = whole("BitsAllocated"), whole("BitsStored")
    colours = text(header.dataset, "PhotometricInterpretation").upper()
    if allocated not in (8, 16) or bits < 8:
        raise unsupported(f"a DICOM of {bits} bits in {allocated}")
    top = whole("HighBit", bits - 1)
    if not bits <= top + 1 <= allocated:
        raise RejectedImage(f"damaged DICOM: bits up to {top} of {allocated} hold values of {bits}")
    if colours not in (*_GRAY, *_COLOURS) or (colours in _COLOURS and allocated > 8):
        raise unsupported("a DICOM that is neither gray nor in RGB or YBR of 8 bits")
    if samples != (3 if colours in _COLOURS else 1):
        raise RejectedImage("damaged DICOM: its samples per pixel are not those of its photometric interpretation")
    check_size(rows, columns, rows * columns * samples * allocated // 8)
    planar, signed = whole("PlanarConfiguration", 0), whole("PixelRepresentation", 0) == 1
    return Image(rows, columns, samples, colours, planar, allocated, bits, top + 1 - bits, signed)
