"""A PNG's parts: whole, in order, and what they say before the pixels are looked at."""

import re
import zlib
from collections import defaultdict
from dataclasses import dataclass

from shards.decoding.decoded import MOST_PARTS, RejectedImage, check_size

MAGIC = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE = 0, 2, 3
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, 4: 2, 6: 4}  # by colour type

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_ANCILLARY = 0x20  # the bit that makes a name's first letter small
_LETTERS = {b"IHDR": "H", b"PLTE": "P", b"tRNS": "t", b"IDAT": "D", b"IEND": "E"}
_ORDER = re.compile(r"H-*(P-*)?(t-*)?D+-*E")
# first row and column, and their steps, of the passes of an interlaced image
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_MOST_TEXT = 2**20  # bytes of a compressed text


def read_parts(data: bytes) -> "Parts":
    """The chunks of each kind, if all are whole, by their checksums, and in an order that the format knows."""
    view, place, kind = memoryview(data), len(MAGIC), b""
    order: list[str] = []
    parts = defaultdict[bytes, list[memoryview]](list)
    while kind != b"IEND":
        length = int.from_bytes(view[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            raise RejectedImage(f"damaged PNG: cut at byte {len(data)}")
        kind = data[place + 4 : place + 8]
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise RejectedImage(f"damaged PNG: wrong checksum of the {kind.decode('latin-1')!r} part at byte {place}")
        if not order and (kind, length) != (b"IHDR", 13):
            raise RejectedImage("damaged PNG: does not begin with its header")
        if len(order) == MOST_PARTS:
            raise RejectedImage(f"damaged PNG: more than {MOST_PARTS:,} parts")
        parts[kind].append(view[place + 8 : end])
        order.append(_LETTERS.get(kind, "-" if kind[0] & _ANCILLARY else "?"))
        place = end + 4
    if not _ORDER.fullmatch("".join(order)):
        raise RejectedImage(f"damaged PNG: parts missing, repeated or out of order: {_shortened(order)}")
    if frames := len(parts[b"fdAT"]):
        raise RejectedImage(
            f"not supported: an animated PNG; save the frame to pack as a PNG ({frames} parts of others)"
        )
    return Parts(parts)


def _shortened(order: list[str]) -> str:
    names = {letter: name.decode() for name, letter in _LETTERS.items()} | {"?": "unknown", "-": "..."}
    return " ".join(names[letter] for letter in re.sub("D+", "D", "".join(order)))[:80]


@dataclass(frozen=True)
class Header:
    height: int
    width: int
    depth: int
    colours: int
    interlaced: bool

    @property
    def passes(self) -> list[tuple[int, int]]:
        """Rows, and bytes of a row with the one that names its filter."""
        steps = _PASSES if self.interlaced else ((0, 0, 1, 1),)
        sizes = [
            (-((top - self.height) // down), -((left - self.width) // across)) for top, left, down, across in steps
        ]
        bits = self.depth * CHANNELS[self.colours]
        return [(rows, 1 + (columns * bits + 7) // 8) for rows, columns in sizes if rows > 0 and columns > 0]

    @property
    def num_bytes(self) -> int:
        return self.height * self.width * CHANNELS[self.colours] * (2 if self.depth == 16 else 1)


@dataclass(frozen=True)
class Parts:
    """of: by the kind's four letters, what each of them holds."""

    of: dict[bytes, list[memoryview]]

    def first(self, kind: bytes) -> bytes:
        return bytes(self.of[kind][0]) if self.of[kind] else b""

    def header(self) -> Header:
        body = self.of[b"IHDR"][0]
        width, height = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
        depth, colours, compression, filters, interlaced = body[8:]
        if depth not in _DEPTHS.get(colours, ()) or compression or filters or interlaced > 1:
            raise RejectedImage(f"damaged PNG: its header says {bytes(body[8:]).hex(' ')}")
        header = Header(height, width, depth, colours, interlaced == 1)
        check_size(height, width, header.num_bytes)
        return header

    def exif(self) -> bytes:
        """The eXIf part, or the text in which ImageMagick wrote EXIF data before PNG had that part."""
        if self.of[b"eXIf"]:
            return bytes(self.of[b"eXIf"][0])
        written = self.text(b"zTXt", b"Raw profile type exif") or self.text(b"tEXt", b"Raw profile type exif")
        try:
            return bytes.fromhex(b"".join(written.split(b"\n")[3:]).decode("ascii", "replace"))
        except ValueError:
            return b""

    def text(self, kind: bytes, name: bytes) -> bytes:
        """What the first text of a kind of part says under a name; b"" if there is none or it cannot be read."""
        for part in self.of[kind]:
            found, _, rest = bytes(part[:_MOST_TEXT]).partition(b"\0")
            if found != name:
                continue
            compressed = kind == b"zTXt" or (kind == b"iTXt" and rest[:1] == b"\1")
            # zTXt: a method; iTXt: whether compressed, a method, and a language and a translated name that end in zeros
            rest = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else rest
            try:
                return zlib.decompressobj().decompress(rest, _MOST_TEXT) if compressed else rest
            except zlib.error:
                return b""
        return b""
