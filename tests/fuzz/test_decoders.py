"""Image files of every kind, damaged and with nonsense in their headers: an image or a reason, never a crash.

A decoder that writes beyond its memory ends the process, or says nothing: the files are decoded in a process of their
own, whose allocator looks for writes beyond (glibc's malloc checks).
"""

import os
import random
import struct
import subprocess
import sys
import zlib
from functools import cache

import cv2
import numpy as np
import pytest
import simplejpeg

from shards.renditions.source import RejectedImage, Source, decode
from tests.fuzz import damaged
from tests.image_files import (
    blocks_jpeg,
    exif_data,
    lossless_jpeg,
    part,
    png_file,
    progressive_jpeg,
    with_parts,
    with_segments,
)
from tests.releases import jpeg, smooth_image

pytestmark = pytest.mark.slow

FRAMES = [*range(0xC0, 0xD0), 0xDE, 0xF7]
VALUES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 0x11, 0x12, 0x21, 0x22, 0x14, 0x41, 0x24, 0x42, 0x44, 31, 32, 128, 255]
FILES = 400


@cache
def corpus() -> list[bytes]:
    """Sound files."""
    gray = smooth_image(np.random.default_rng(0), 64, 48)
    colour = np.ascontiguousarray(np.dstack([gray, gray[::-1], gray[:, ::-1]]))
    cmyk = np.ascontiguousarray(np.dstack([colour, gray]))
    blocks = (gray[::4, ::4] // 2 + 60).astype(int)[:12, :12]
    exif = 0xE1, b"Exif\0\0" + exif_data(6)
    jpegs = [
        jpeg(gray),
        *[simplejpeg.encode_jpeg(colour, 90, "RGB", kind) for kind in ("444", "422", "420", "440", "411")],
        simplejpeg.encode_jpeg(cmyk, 90, "CMYK"),
        *[cv2.imencode(".jpg", each, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes() for each in (gray, colour)],
        cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes(),
        progressive_jpeg(64, 30),
        *[lossless_jpeg(each) for each in (gray, colour, cmyk)],
        lossless_jpeg(gray >> 4, 4),
        lossless_jpeg(gray.astype(int) << 4, 12),
        blocks_jpeg(blocks, marker=0xC2),
        *[blocks_jpeg(blocks, (each, (1, 1), (1, 1))) for each in ((4, 2), (2, 4), (3, 1), (3, 2))],
        blocks_jpeg(blocks, ((2, 2),)),
        blocks_jpeg(blocks, ((1, 1), (2, 2), (2, 1))),
        blocks_jpeg(blocks, ((2, 2), (1, 1), (1, 1), (2, 2))),
    ]
    pngs = [
        png_file(np.random.default_rng(1).integers(0, 2**depth, (40, 40 * channels)), depth, colours, parts)
        for colours, channels, depths in ((0, 1, (1, 2, 4, 8, 16)), (2, 3, (8, 16)), (4, 2, (8, 16)), (6, 4, (8, 16)))
        for depth in depths
        for parts in ((), ((b"tRNS", bytes(2 * channels)), (b"eXIf", exif_data(5))))
        if not parts or colours in (0, 2)
    ]
    palette = [(b"PLTE", bytes(range(48))), (b"tRNS", bytes(5)), (b"iCCP", b"a\0\0" + zlib.compress(bytes(99)))]
    animated = with_parts(png_file(gray.astype(int), 8, 0), (b"fdAT", b""))
    pngs += [png_file(gray.astype(int) >> 4, 4, 3, palette), animated]
    return [*jpegs, *[with_segments(each, exif) for each in jpegs[:4]], *pngs]


def mutated(seed: int) -> bytes:
    """One file of the corpus with other values in its headers, other damage, both, or neither."""
    rng = random.Random(seed)
    data = rng.choice(corpus())
    how = rng.random()
    if how < 0.7:
        data = _reheaded(data, rng)
    return damaged(data, seed) if 0.6 < how < 0.8 else data


def _reheaded(data: bytes, rng: random.Random) -> bytes:
    """One to three bytes of the headers changed, a PNG's checksums made right."""
    out = bytearray(data)
    if data.startswith(b"\x89PNG"):
        for _ in range(rng.randint(0, 2)):
            out[rng.randrange(16, 29)] = rng.choice(VALUES)
        if rng.random() < 0.5:  # a part moved, doubled, or with other bytes in it
            kind = rng.choice([b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"IHDR", b"acTL", b"fdAT", b"abcd"])
            place = rng.choice([33, len(out) - 12])
            out[place:place] = part(kind, rng.randbytes(rng.choice([0, 1, 2, 3, 6, 13, 48])))
        out[29:33] = struct.pack(">I", zlib.crc32(out[12:29]))
        return bytes(out)
    start = max(0, *(data.find(bytes([0xFF, marker])) for marker in (0xC0, 0xC1, 0xC2, 0xC3)))
    scan = data.index(b"\xff\xda")
    for _ in range(rng.randint(1, 2)):
        which = rng.random()
        if which < 0.3:
            out[start + 1] = rng.choice(FRAMES)
        elif which < 0.8:
            out[rng.randrange(start + 4, start + 4 + min(16, scan - start - 4))] = rng.choice(VALUES)
        else:
            out[rng.randrange(scan + 4, scan + 12)] = rng.choice(VALUES)
    return bytes(out)


def check_decoder(seed: int) -> bool:
    """Whether one file came out as an image; it was rejected in one line if not."""
    data = mutated(seed)
    try:
        found = decode(data, random.Random(seed).choice([32, 40, 64, 1000]))
    except RejectedImage as error:
        assert str(error) and "\n" not in str(error)
        return False
    assert isinstance(found, Source) and found.gray.dtype == np.uint8
    assert 0 < found.gray.shape[0] <= found.height and 0 < found.gray.shape[1] <= found.width
    return True


def test_every_file_of_the_corpus_is_what_it_should_be():
    decoded = [data for data in corpus() if _is_image(data)]
    assert len(corpus()) - len(decoded) == 2  # 12 bits, an animation


def _is_image(data: bytes) -> bool:
    try:
        return decode(data, 32).gray.size > 0
    except RejectedImage as error:
        assert str(error).startswith("not supported: ")
        return False


def test_damaged_files_and_nonsense_in_headers_end_no_process():
    done = decoded_apart(range(FILES))
    said = [line for line in done.stderr.splitlines() if "libc_malloc_debug" not in line]  # an older glibc has none
    assert (done.returncode, said) == (0, []), done.stdout.splitlines()[-1:]
    images, rejected = done.stdout.count("image"), done.stdout.count("rejected")
    assert images + rejected == FILES and min(images, rejected) > FILES / 5


def decoded_apart(seeds: range) -> subprocess.CompletedProcess:
    """Every seed in one other process, which says each before it tries it."""
    code = (
        "from tests.fuzz.test_decoders import check_decoder\n"
        f"for seed in range({seeds.start}, {seeds.stop}):\n"
        "    print(seed, end=' ', flush=True)\n"
        "    print('image' if check_decoder(seed) else 'rejected', flush=True)\n"
    )
    checks = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "OPENCV_LOG_LEVEL": "SILENT"}
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **checks}, capture_output=True, text=True, timeout=300
    )
