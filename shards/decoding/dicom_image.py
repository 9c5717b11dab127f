"""What a DICOM's header says of its pixels, checked before any of them is touched."""

from dataclasses import dataclass

from shards.decoding.decoded import RejectedImage, check_size, unsupported
from shards.decoding.dicom_header import Header

_GRAY, _PALETTE, _COLOURS = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR", ("RGB", "YBR_FULL", "YBR_FULL_422")
_CODED_COLOURS = ("YBR_RCT", "YBR_ICT")  # of JPEG 2000


@dataclass(frozen=True)
class Image:
    """colours: the photometric interpretation; planar: colour by colour, not pixel by pixel; allocated: bits of a
    number, 8 or 16; bits: of them that are a value, 8 or more; shift: bits below the value; signed: its highest bit is
    a sign."""

    height: int
    width: int
    colours: str
    planar: bool
    allocated: int
    bits: int
    shift: int
    signed: bool

    @property
    def samples(self) -> int:
        return 1 if self.colours in (*_GRAY, _PALETTE) else 3

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
    elements = header.elements
    if elements.whole("NumberOfFrames", 1) > 1:
        raise unsupported("a DICOM of several frames")
    allocated, bits = elements.whole("BitsAllocated"), elements.whole("BitsStored")
    if allocated not in (8, 16) or bits < 8:
        raise unsupported(f"a DICOM of {min(allocated, bits)} bits")
    top = elements.whole("HighBit", bits - 1)
    if not bits <= top + 1 <= allocated:
        raise RejectedImage(f"damaged DICOM: bits up to {top} of {allocated} hold values of {bits}")
    image = Image(
        height=elements.whole("Rows"),
        width=elements.whole("Columns"),
        colours=elements.text("PhotometricInterpretation").upper(),
        planar=elements.whole("PlanarConfiguration", 0) == 1,
        allocated=allocated,
        bits=bits,
        shift=top + 1 - bits,
        signed=elements.whole("PixelRepresentation", 0) == 1,
    )
    if image.colours not in (*_GRAY, _PALETTE, *_COLOURS, *_CODED_COLOURS):
        raise unsupported("a DICOM whose photometric interpretation is none of gray, palette, RGB and YBR")
    if elements.whole("SamplesPerPixel", 1) != image.samples:
        raise RejectedImage("damaged DICOM: its samples per pixel are not those of its photometric interpretation")
    if image.samples == 3 and (image.allocated, image.bits) != (8, 8):
        raise unsupported("a DICOM in colours of more than 8 bits")
    check_size(image.height, image.width, image.height * image.width * image.samples * allocated // 8)
    return image
