"""Every kind of PNG: its right pixels, or a reason in words; nothing of libpng's own is shown."""

import struct
import time
import zlib

import cv2
import numpy as np
import pytest

from shards.renditions.source import RejectedImage, decode
from tests.image_files import SIGNATURE, part, png_file, rows_of, with_parts
from tests.releases import smooth_image

RNG = np.random.default_rng(0)
GRAY = smooth_image(RNG, 70, 60).astype(int)
PLAIN = png_file(GRAY, 8, 0)
DEPTHS = [1, 2, 4, 8, 16]


@pytest.fixture(autouse=True)
def quiet(capfd):
    yield
    assert capfd.readouterr() == ("", "")


def reason(data):
    with pytest.raises(RejectedImage) as error:
        decode(data, 32)
    assert "\n" not in str(error.value)
    return str(error.value)


def luma(rgb):
    """0 to 255 from RGB of 8 bits, by ITU-R BT.601."""
    return rgb @ np.array([0.299, 0.587, 0.114])


def spread(values, depth):
    """Of a depth below 16, to 0 to 255."""
    return values * (255 / (2**depth - 1))


# ---------------------------------------------------------------- transparency, in every colour type


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_gray_value_that_is_transparent_is_black(depth):
    values = RNG.integers(0, 2**depth, (40, 50))
    values[0, :2] = 0, 2**depth - 1
    key = int(values[7, 9])
    for more in (0, 0 if depth == 16 else 1 << depth):  # higher bits do not count
        data = png_file(values, depth, 0, [(b"tRNS", struct.pack(">H", key + more))])
        found = decode(data, 32, window="full")
        wanted = spread(values, depth) if depth < 16 else values / 257
        assert found.converted == (("RGBA", "16-bit") if depth == 16 else ("RGBA",))
        assert np.abs(found.gray - np.where(values == key, 0, wanted)).max() <= 0.51
        assert (values == key).any() and not found.gray[values == key].any()


@pytest.mark.parametrize("depth", [8, 16])
def test_a_colour_that_is_transparent_is_black(depth):
    values = RNG.integers(0, 2**depth, (40, 50, 3))
    values[5] = values[0, 0]
    values[6, :, 1:], values[6, :, 0] = values[0, 0, 1:], (values[0, 0, 0] + 9) % 2**depth  # only two of three agree
    data = png_file(values.reshape(40, -1), depth, 2, [(b"tRNS", struct.pack(">HHH", *values[0, 0].tolist()))])
    found = decode(data, 32, window="full")
    assert found.converted == (("RGBA", "16-bit") if depth == 16 else ("RGBA",))
    see = (values != values[0, 0]).any(axis=2)
    assert not see[5].any() and see[6].all()
    assert np.abs(found.gray - np.where(see, luma(values / (257 if depth == 16 else 1)), 0)).max() < 1.01


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_and_its_transparent_colours(depth):
    values, palette = RNG.integers(0, 2**depth, (40, 50)), RNG.integers(0, 256, (2**depth, 3)).astype(np.uint8)
    for clear in (b"", b"\0", bytes([0, 51]), RNG.bytes(2**depth)):
        parts = [(b"PLTE", palette.tobytes()), *([(b"tRNS", clear)] if clear else [])]
        found = decode(png_file(values, depth, 3, parts), 32)
        alpha = np.frombuffer(clear.ljust(2**depth, b"\xff"), np.uint8)[values]
        assert found.converted == (("RGBA",) if clear else ("RGB",))
        assert np.abs(found.gray - luma(palette[values]) * alpha / 255).max() < 1.01


@pytest.mark.parametrize(("depth", "colours"), [(8, 4), (8, 6), (16, 4), (16, 6)])
def test_an_alpha_channel_and_bits_of_every_kind(depth, colours):
    channels = 2 if colours == 4 else 4
    values = RNG.integers(0, 2**depth, (40, 50, channels))
    found = decode(png_file(values.reshape(40, -1), depth, colours), 32, window="full")
    shares = values / (2**depth - 1)
    gray = shares[:, :, 0] if colours == 4 else luma(shares[:, :, :3])
    assert np.abs(found.gray - 255 * gray * shares[:, :, -1]).max() < 1.6


@pytest.mark.parametrize("depth", DEPTHS)
def test_interlaced_and_filtered_files_are_read(depth):
    """Adam7 by hand, at a size that no pass divides."""
    values = RNG.integers(0, 2**depth, (37, 43))
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(rows_of(values[top::down, left::across], depth) for top, left, down, across in passes)
    data = bytearray(png_file(values, depth, 0, raw=zlib.compress(rows)))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    found = decode(bytes(data), 32, window="full")
    assert np.abs(found.gray - (spread(values, depth) if depth < 16 else values / 257)).max() <= 0.5
    filtered = cv2.imencode(".png", GRAY.astype(np.uint8), [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS])[1]
    assert np.array_equal(decode(filtered.tobytes(), 32).gray, GRAY)


# ---------------------------------------------------------------- what is left alone (docs/reliability.md)


def test_profiles_gamma_background_and_texts_change_no_pixel_and_no_word_is_shown():
    bomb = zlib.compress(bytes(50_000_000), 9)
    for parts in (
        [(b"gAMA", struct.pack(">I", 100_000))],
        [(b"cHRM", bytes(32))],
        [(b"sRGB", b"\0")],
        [(b"cICP", bytes([9, 16, 0, 1]))],
        [(b"sBIT", b"\x04")],
        [(b"bKGD", b"\0\xff")],
        [(b"pHYs", struct.pack(">IIB", 1000, 2000, 1))],
        [(b"iCCP", b"a\0\0" + zlib.compress(bytes(200)))],  # which libpng warns about
        [(b"iCCP", b"a\0\0" + bomb), (b"zTXt", b"a\0\0" + bomb)],
        [(b"zTXt", b"Raw profile type exif\0\0" + bomb), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb)],
        [(b"acTL", struct.pack(">II", 1, 0)), (b"fcTL", bytes(26))],  # an animation of one frame
        [(b"abCd", b"a private part")],
    ):
        started = time.monotonic()
        found = decode(with_parts(PLAIN, *parts), 32)
        assert np.array_equal(found.gray, GRAY) and found.converted == () and time.monotonic() - started < 1
    with_background = with_parts(png_file(GRAY, 8, 0, [(b"tRNS", b"\0\0")]), (b"bKGD", b"\0\xff"))
    assert np.array_equal(decode(with_background, 32).gray, GRAY)  # transparent on black, whatever it says


# ---------------------------------------------------------------- damage


def test_several_frames_are_not_packed_as_one():
    parts = [(b"fcTL", bytes(26)), (b"fdAT", bytes(30)), (b"fcTL", bytes(26)), (b"fdAT", bytes(30))]
    animated = with_parts(with_parts(PLAIN, (b"acTL", struct.pack(">II", 3, 0))), *parts, after=True)
    assert reason(animated) == "not supported: an animated PNG; save the frame to pack as a PNG (2 parts of others)"


ROWS = rows_of(GRAY, 8)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png_file(GRAY, 8, 0, raw=zlib.compress(ROWS[:-1])), "less pixels than its header says"),
        (png_file(GRAY, 8, 0, raw=zlib.compress(ROWS + b"\0")), "more pixels than its header says"),
        (png_file(GRAY, 8, 0, raw=zlib.compress(ROWS)[:-1]), "no checksum behind its pixels"),
        (png_file(GRAY, 8, 0, raw=zlib.compress(ROWS)[:-1] + b"\xff"), "Error -3 while decompressing data"),
        (png_file(GRAY, 8, 0, raw=b""), "less pixels"),
        (png_file(GRAY, 8, 0, raw=zlib.compress(b"\5" + ROWS[1:])), "unknown filter of a row"),
        (with_parts(PLAIN, (b"IHDR", PLAIN[16:29])), "parts missing, repeated or out of order: IHDR IHDR IDAT IEND"),
        (with_parts(PLAIN, (b"ABCD", b"1")), "parts missing, repeated or out of order: IHDR unknown IDAT IEND"),
        (
            with_parts(PLAIN, (b"tEXt", b"a"), (b"IDAT", b""), after=True),
            "parts missing, repeated or out of order: IHDR",
        ),
        (with_parts(PLAIN, (b"PLTE", bytes(6)), after=True), "parts missing, repeated or out of order"),
        (SIGNATURE + PLAIN[8:33] + part(b"IEND"), "parts missing, repeated or out of order: IHDR IEND"),
        (png_file(GRAY, 8, 3), "a pixel has colour 256 of 0"),
        (png_file(GRAY % 20, 8, 3, [(b"PLTE", bytes(57))]), "a pixel has colour 20 of 19"),
        (png_file(GRAY, 8, 3, [(b"PLTE", bytes(10))]), "a palette of 10 bytes"),
        (png_file(GRAY % 2, 1, 3, [(b"PLTE", bytes(9))]), "a palette of 9 bytes"),
        (png_file(GRAY, 8, 3, [(b"PLTE", bytes(768)), (b"tRNS", bytes(257))]), "a palette of 768 bytes, 257 for"),
        (png_file(GRAY, 8, 0, [(b"tRNS", b"\0")]), "1 bytes say which value is transparent"),
        (png_file(GRAY, 3, 0), "its header says 03 00 00 00 00"),
        (png_file(GRAY, 8, 0).replace(PLAIN[16:33], PLAIN[16:25] + b"\5\0\0\0" + b"1234"), "wrong checksum"),
    ],
)
def test_damage_that_checksums_do_not_show(data, words):
    assert reason(data).startswith(f"damaged PNG: {words}")


def test_bombs_are_refused_before_they_go_off():
    started = time.monotonic()
    assert reason(png_file(GRAY, 8, 0, raw=zlib.compress(ROWS + bytes(60_000_000), 1))).endswith("its header says")
    assert reason(SIGNATURE + PLAIN[8:33] + part(b"IDAT") * 1_000_001) == "damaged PNG: more than 1,000,000 parts"
    large = bytearray(png_file(np.zeros((40, 160), int), 16, 6))
    large[16:24] = struct.pack(">II", 9_000, 9_000)
    large[29:33] = struct.pack(">I", zlib.crc32(large[12:29]))
    assert reason(bytes(large)) == "larger than 400 MB in memory: 9000 x 9000 take 648 MB"
    assert time.monotonic() - started < 10
