"""A JPEG's markers, read before a decoder may touch it: what kind of coding, how large, how many scans, how turned."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from shards.decoding.decoded import MOST_PARTS, RejectedImage, check_size, unsupported

# Pixels times scans, each a pass over them: 20 scans of 100 megapixels, 256 of a radiograph. An ordinary progressive
# file has 10; a file of 350 KB can have 883.
MOST_SCANNED = 2_000_000_000
MOST_ARITHMETIC = 80_000_000  # bytes of a file with arithmetic coding, of which 10 MB take a second

_DCT, _PROGRESSIVE, _ARITHMETIC = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA), (0xC2, 0xCA), (0xC9, 0xCA)
_LOSSLESS, _LOSSLESS_ARITHMETIC, _JPEG_LS, _SCAN, _END = 0xC3, 0xCB, 0xF7, 0xDA, 0xD9
_HIERARCHICAL = (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, 0xDE)
_FRAMES = (*_DCT, _LOSSLESS, _LOSSLESS_ARITHMETIC, *_HIERARCHICAL, _JPEG_LS)
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_BEHIND_A_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)


@dataclass(frozen=True)
class Frame:
    """marker: the kind of coding; bits: of a value; sampling: of each component, across and down; scans: how many
    pass over the pixels, one if the first holds all components; exif, xmp: the first of each kind, b"" without."""

    marker: int
    bits: int
    height: int
    width: int
    sampling: tuple[tuple[int, int], ...]
    scans: int = 1
    exif: bytes = b""
    xmp: bytes = b""

    @property
    def components(self) -> int:
        return len(self.sampling)

    @property
    def lossless(self) -> bool:
        return self.marker == _LOSSLESS

    @property
    def converted(self) -> tuple[str, ...]:
        said = {
            "RGB": self.components == 3,
            "CMYK": self.components == 4,
            "progressive": self.marker in _PROGRESSIVE,
            "arithmetic": self.marker in _ARITHMETIC,
            "lossless": self.lossless,
        }
        return tuple(word for word, true in said.items() if true)

    @property
    def num_bytes(self) -> int:
        """What a decoder holds of it: the pixels, and with several scans every coefficient in 2 bytes."""
        most_across, most_down = (max(each) for each in zip(*self.sampling, strict=True))
        samples = sum(across * down for across, down in self.sampling) / (most_across * most_down)
        several = self.scans > 1 or self.marker in _PROGRESSIVE
        pixels = 1 if self.components == 1 else self.components + 1
        return int(self.height * self.width * (pixels + (2 * samples if several else 0)))


def read_frame(data: bytes, of_dicom: bool = False) -> Frame:
    """Raises RejectedImage for what no decoder here reads, and for what would take too long or too much memory.

    of_dicom: there are decoders for 9 to 16 bits and for JPEG-LS too.
    """
    frame, exif, xmp, scans = None, b"", b"", 0
    for marker, body in _segments(data):
        if marker in _FRAMES and frame is None:
            frame = _frame(marker, body, of_dicom)
        elif marker == _SCAN:
            scans += 1
            if frame is None or (frame.marker not in _PROGRESSIVE and body[:1] == bytes([frame.components])):
                break  # the one scan: what stands behind it need not be looked at
        elif marker == 0xE1 and not scans:
            exif = exif or (body if body.startswith(b"Exif\0\0") else b"")
            xmp = xmp or (body if body.startswith(b"http://ns.adobe.com/xap/1.0/\0") else b"")
    if frame is None or not scans:
        raise RejectedImage(f"damaged JPEG: {'holds no pixels' if frame else 'has no header'}")
    frame = replace(frame, scans=scans, exif=exif, xmp=xmp)
    check_size(frame.height, frame.width, frame.num_bytes)
    if scans * frame.height * frame.width > MOST_SCANNED:
        raise RejectedImage(f"too slow to decode: {frame.height} x {frame.width} in {scans} scans")
    if frame.marker in _ARITHMETIC and len(data) > MOST_ARITHMETIC:
        raise RejectedImage(f"too slow to decode: {len(data):,} bytes with arithmetic coding")
    return frame


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers and what they hold, up to the end of the image; the coded pixels behind a scan's header are passed by."""
    place, behind_scan = 2, False
    for _ in range(MOST_PARTS):
        found = _BEHIND_A_SCAN.search(data, place) if behind_scan else _MARKER.match(data, place)
        if not found or (marker := found[1][0]) == _END:
            return
        place, behind_scan = found.end(), marker == _SCAN
        if marker not in _BARE:
            length = int.from_bytes(data[place : place + 2], "big")
            yield marker, data[place + 2 : place + length]
            place += length
    raise RejectedImage(f"damaged JPEG: more than {MOST_PARTS:,} markers")


def _frame(marker: int, body: bytes, of_dicom: bool) -> Frame:
    """What a frame header says, if it is sound and can be read."""
    if marker in _HIERARCHICAL:
        raise unsupported("a hierarchical JPEG")
    if marker == _JPEG_LS and not of_dicom:
        raise unsupported("a JPEG-LS image")
    if marker == _LOSSLESS_ARITHMETIC:
        raise unsupported("a lossless JPEG with arithmetic coding")
    if len(body) < 6 or len(body) != 6 + 3 * body[5] or not body[5]:
        raise RejectedImage(f"damaged JPEG: a frame header of {len(body)} bytes")
    bits, height, width = body[0], int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    sampling = tuple((each >> 4, each & 15) for each in body[7::3])
    if not all(1 <= factor <= 4 for pair in sampling for factor in pair):
        raise RejectedImage(f"damaged JPEG: sampling {' '.join(f'{across}x{down}' for across, down in sampling)}")
    if bits not in (range(2, 17) if marker in (_LOSSLESS, _JPEG_LS) else (8, 12)):
        raise RejectedImage(f"damaged JPEG: values of {bits} bits")
    if bits > 8 and not of_dicom:
        raise unsupported(f"a JPEG of {bits} bits", "a 16-bit PNG")
    if bits < 8 and len(sampling) == 4:  # libjpeg takes its black plate for one of 8 bits
        raise unsupported(f"a CMYK JPEG of {bits} bits")
    if len(sampling) not in (1, 3, 4):
        raise unsupported(f"a JPEG of {len(sampling)} components")
    if not height:
        raise unsupported("a JPEG that says its height behind its pixels (DNL)")
    return Frame(marker, bits, height, width, sampling)
