"""JPEG and PNG files of every kind, written part by part: no library here writes the odd ones."""

import struct
import zlib
from collections.abc import Iterable

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types


def part(kind: bytes, body: bytes = b"") -> bytes:
    """A PNG's chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def rows_of(samples: np.ndarray, depth: int) -> bytes:
    """int [h, w * channels] as a PNG's rows, without a filter."""
    if depth == 16:
        rows = samples.astype(">u2").view(np.uint8)
    else:
        bits = (samples[:, :, None] >> np.arange(depth - 1, -1, -1) & 1).astype(np.uint8)
        rows = np.packbits(bits.reshape(len(samples), -1), axis=1)
    return np.hstack([np.zeros((len(rows), 1), np.uint8), rows]).tobytes()


def png_file(
    samples: np.ndarray, depth: int, colours: int, before: Iterable[tuple[bytes, bytes]] = (), raw: bytes | None = None
) -> bytes:
    """int [h, w * channels] as a PNG of a colour type; before: parts before the pixels; raw: other deflated rows."""
    width = samples.shape[1] // CHANNELS[colours]
    header = struct.pack(">IIBBBBB", width, len(samples), depth, colours, 0, 0, 0)
    pixels = zlib.compress(rows_of(samples, depth)) if raw is None else raw
    parts = [(b"IHDR", header), *before, (b"IDAT", pixels), (b"IEND", b"")]
    return SIGNATURE + b"".join(part(*each) for each in parts)


def with_parts(png: bytes, *parts: tuple[bytes, bytes], after: bool = False) -> bytes:
    """A PNG with more parts behind its header, or behind its pixels."""
    place = len(png) - 12 if after else 33
    return png[:place] + b"".join(part(*each) for each in parts) + png[place:]


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG's marker with what it holds."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments behind its first two bytes."""
    return jpeg[:2] + b"".join(segment(*each) for each in segments) + jpeg[2:]


def frame_header(marker: int, height: int, width: int, sampling=((1, 1),), bits: int = 8) -> bytes:
    components = b"".join(bytes([i + 1, across << 4 | down, 0]) for i, (across, down) in enumerate(sampling))
    return segment(marker, struct.pack(">BHHB", bits, height, width, len(sampling)) + components)


def lossless_jpeg(planes: np.ndarray, bits: int = 8, first: int = 1, predictor: int = 1) -> bytes:
    """int [h, w] or [h, w, channels] as a lossless JPEG, predictor 1 or 6; first: number of the first component."""
    planes = planes.astype(int).reshape(*planes.shape[:2], -1)
    height, width, channels = planes.shape
    guess = np.roll(planes, 1, axis=1)
    guess[1:, 0], guess[0, 0] = planes[:-1, 0], 1 << bits - 1
    if predictor == 6:
        guess[1:, 1:] = planes[:-1, 1:] + ((planes[1:, :-1] - planes[:-1, :-1]) >> 1)
    coded = "".join(_difference(each) for each in (planes - guess).ravel().tolist())
    header = bytearray(frame_header(0xC3, height, width, ((1, 1),) * channels, bits))
    header[10::3] = range(first, first + channels)
    scan = bytes([channels]) + b"".join(bytes([first + i, 0]) for i in range(channels)) + bytes([predictor, 0, 0])
    tables = segment(0xC4, bytes([0, 0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17)))
    return b"\xff\xd8" + bytes(header) + tables + segment(0xDA, scan) + _packed(coded) + b"\xff\xd9"


def _difference(value: int) -> str:
    """Its category in five bits, then its bits."""
    size = abs(value).bit_length()
    return format(size, "05b") + (format(value if value > 0 else value + (1 << size) - 1, f"0{size}b") if size else "")


def blocks_jpeg(blocks: np.ndarray, sampling=((4, 2), (1, 1), (1, 1)), marker: int = 0xC0, bits: int = 8) -> bytes:
    """A baseline JPEG whose luma has one gray per 8 x 8 block: int [rows, columns], multiples of the sampling.
    marker 0xC2: a progressive one; 0xC1: an extended one, which may have 12 bits."""
    end = "" if marker == 0xC2 else "0"  # of a block, which its second scan would bring
    (across, down), others = sampling[0] if sampling[1:] else (1, 1), sampling[1:]  # one component is not interleaved
    most_across, most_down = (max(each) for each in zip((across, down), *others, strict=True))
    height, width = 8 * len(blocks) * most_down // down, 8 * blocks.shape[1] * most_across // across
    components, codes = [value for i in range(len(sampling)) for value in (i + 1, 0)], bits + 4
    coded, before = [], 0
    for top in range(0, len(blocks), down):
        for left in range(0, blocks.shape[1], across):
            for value in (blocks[top : top + down, left : left + across].ravel() - (1 << bits - 1)).tolist():
                coded.append(_difference(value - before) + end)
                before = value
            coded.append(("00000" + end) * sum(a * b for a, b in others))
    return (
        b"\xff\xd8"
        + segment(0xDB, b"\0" + bytes([8] * 64))
        + frame_header(marker, height, width, sampling, bits)
        + segment(0xC4, bytes([0, 0, 0, 0, 0, codes] + [0] * 11) + bytes(range(codes)))
        + segment(0xC4, bytes([0x10, 1] + [0] * 15) + b"\0")
        + segment(0xDA, bytes([len(sampling), *components, 0, 0 if marker == 0xC2 else 63, 0]))
        + _packed("".join(coded))
        + b"\xff\xd9"
    )


def progressive_jpeg(side: int, scans: int) -> bytes:
    """A sound progressive JPEG of one gray, with any number of scans up to 883, in which nothing changes."""
    blocks = ((side + 7) // 8) ** 2
    runs, left = "", blocks
    while left > 0:
        run = min(32767, max(left, 16384))
        runs, left = runs + "0" + format(run - 16384, "014b"), left - run
    empty = _packed(runs)
    data = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64)) + frame_header(0xC2, side, side)
    data += segment(0xC4, bytes([0, 1] + [0] * 15) + b"\0") + segment(0xC4, bytes([0x10, 1] + [0] * 15) + b"\xe0")
    data += segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + _packed("0" * blocks)
    bands = [(k, low) for k in range(1, 64) for low in range(13, -1, -1)]
    for band, low in bands[: scans - 1]:
        data += segment(0xDA, bytes([1, 1, 0, band, band, (low + 1 if low < 13 else 0) << 4 | low])) + empty
    return data + b"\xff\xd9"


def _packed(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def exif_data(orientation: int, little: bool = True, kind: int = 3, before: int = 0) -> bytes:
    """EXIF data with an orientation of a TIFF type (3: SHORT, 4: LONG), behind `before` other entries."""
    order = "<" if little else ">"
    value = struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", orientation)
    entries = [struct.pack(f"{order}HHI", 0x100 + i, 3, 1) + bytes(4) for i in range(before)]
    entries.append(struct.pack(f"{order}HHI", 0x0112, kind, 1) + value)
    header = (b"II" if little else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return header + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
