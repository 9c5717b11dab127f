"""What a DICOM's header says of its pixels, checked before any of them is touched."""

from dataclasses import dataclass

from shards.decoding.decoded import RejectedImage, check_size, unsupported
from shards.decoding.dicom_header import Header, number, text

_GRAY, _PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")  # the last two of JPEG 2000


@dataclass(frozen=True)
class Image:
    """colours: the photometric interpretation; samples: 1 or 3; planar: colour by colour, not pixel by pixel;
    allocated: bits of a number, 8 or 16; bits: those of them that are the value, 8 or more; shift: bits below the
    value; signed: its highest bit is a sign."""

    height: int
    width: int
    colours: str
    samples: int
    planar: bool
    allocated: int
    bits: int
    shift: int
    signed: bool

    @property
    def palette(self) -> bool:
        return self.colours == _PALETTE

    @property
    def inverted(self) -> bool:
        return self.colours == _GRAY[0]


def read_image(header: Header) -> Image:
    """Raises RejectedImage if the file has no image, or one that nothing here reads."""
    if not header.place:
        what = f"a DICOM of the kind {header.kind}" if header.kind else "a DICOM"
        raise RejectedImage(f"no pixels: {what} without any, or cut off before them")

    def whole(keyword: str, default: int | None = None) -> int:
        return int(number(header.dataset, keyword, default))

    if whole("NumberOfFrames", 1) > 1:
        raise unsupported("a DICOM of several frames")
    height, width, samples = whole("Rows"), whole("Columns"), whole("SamplesPerPixel", 1)
    allocated, bits = whole("BitsAllocated"), whole("BitsStored")
    colours = text(header.dataset, "PhotometricInterpretation").upper()
    if allocated not in (8, 16) or bits < 8:
        raise unsupported(f"a DICOM of {bits} bits in {allocated}")
    top = whole("HighBit", bits - 1)
    if not bits <= top + 1 <= allocated:
        raise RejectedImage(f"damaged DICOM: bits up to {top} of {allocated} hold values of {bits}")
    if colours not in (*_GRAY, _PALETTE, *_COLOURS) or (colours == _PALETTE and not header.little):
        raise unsupported("a DICOM that is neither gray, RGB, YBR nor has a palette (a little-endian one)")
    if samples != (3 if colours in _COLOURS else 1):
        raise RejectedImage("damaged DICOM: its samples per pixel are not those of its photometric interpretation")
    if samples == 3 and allocated > 8:
        raise unsupported("a DICOM in colours of more than 8 bits")
    check_size(height, width, height * width * samples * allocated // 8)
    planar, signed = whole("PlanarConfiguration", 0) == 1, whole("PixelRepresentation", 0) == 1
    return Image(height, width, colours, samples, planar, allocated, bits, top + 1 - bits, signed)
