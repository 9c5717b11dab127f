"""Images that a camera stored turned are packed as they are to be looked at: as Pillow turns them."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from shards.decoding.orientation import orientation_of
from shards.renditions.source import decode
from tests.image_files import exif_data, png_file, segment, with_parts, with_segments
from tests.releases import jpeg, smooth_image

GRAY = smooth_image(np.random.default_rng(0), 70, 60)
SQUARE = GRAY[:60]
PNG = png_file(GRAY.astype(int), 8, 0)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
APP1_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def pillow(data):
    return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L"))


def check(data, orientation, least=60):
    """The pixels are Pillow's, and what is said of them fits."""
    found, wanted = decode(data, least), pillow(data)
    assert (found.height, found.width) == found.gray.shape == wanted.shape
    assert np.array_equal(found.gray, wanted)
    assert found.converted == (("turned",) if orientation > 1 else ())


def raw_profile(data):
    """As ImageMagick writes EXIF data into a PNG's text."""
    lines = re.sub("(.{1,72})", r"\1\n", data.hex())
    return b"\nexif\n%8d\n" % len(data) + lines.encode()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image", [GRAY, SQUARE], ids=["upright", "square"])
def test_all_eight_in_jpeg_and_png_in_both_byte_orders_and_types(image, orientation):
    assert not np.array_equal(SQUARE, SQUARE.T)
    for little in (True, False):
        for kind in (3, 4):
            exif = exif_data(orientation, little, kind, before=3)
            check(with_segments(jpeg(image), (0xE1, b"Exif\0\0" + exif)), orientation)
            for after in (False, True):
                check(with_parts(png_file(image.astype(int), 8, 0), (b"eXIf", exif), after=after), orientation)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_where_else_it_may_stand(orientation):
    exif, xmp = exif_data(orientation), XMP % orientation
    first, second = b"Exif\0\0" + exif, b"Exif\0\0" + exif_data(8)
    behind = jpeg(GRAY)
    scan = behind.index(b"\xff\xda")
    for data in (
        with_segments(jpeg(GRAY), (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), (0xFE, b"a note"), (0xE1, first)),
        behind[:scan] + segment(0xE1, first) + behind[scan:],
        with_segments(jpeg(GRAY), (0xE1, APP1_XMP + XMP % 5), (0xE1, first), (0xE1, second)),  # EXIF counts, the first
        with_segments(jpeg(GRAY), (0xE1, APP1_XMP + xmp)),
        with_parts(PNG, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
        with_parts(PNG, (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))),
        with_parts(PNG, (b"tEXt", b"Raw profile type exif\0" + raw_profile(b"Exif\0\0" + exif))),
        with_parts(PNG, (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(exif)))),
        with_parts(PNG, (b"eXIf", b"Exif\0\0" + exif)),
    ):
        check(data, orientation)


def test_a_turned_jpeg_at_a_smaller_scale_covers_the_size_and_says_its_own():
    image = smooth_image(np.random.default_rng(1), 400, 320)
    found = decode(with_segments(jpeg(image), (0xE1, b"Exif\0\0" + exif_data(6))), 80)
    assert found.gray.shape == (80, 100) and (found.height, found.width) == (320, 400)
    assert np.array_equal(found.gray, np.rot90(decode(jpeg(image), 80).gray, -1))


def test_every_kind_of_pixel_is_turned():
    """16 bits, transparency and MONOCHROME1 come first or after; the result is the same."""
    deep = np.arange(64 * 40).reshape(64, 40) * 25
    plain = png_file(deep, 16, 0, [(b"tRNS", struct.pack(">H", 500))])
    found = decode(with_parts(plain, (b"eXIf", exif_data(6))), 32, inverted=True)
    assert found.converted == ("RGBA", "16-bit", "turned", "MONOCHROME1")
    assert np.array_equal(found.gray, np.rot90(decode(plain, 32, inverted=True).gray, -1))


@pytest.mark.parametrize(
    "exif",
    [
        exif_data(0),
        exif_data(9),
        exif_data(65535),
        exif_data(6)[:20],
        exif_data(6)[:3],
        b"XX" + exif_data(6)[2:],
        exif_data(6)[:4] + b"\xff\xff\xff\xff",
        exif_data(6, kind=7),
        b"",
    ],
)
def test_what_cannot_be_read_is_upright(exif):
    assert orientation_of(exif, b"") == orientation_of(b"Exif\0\0" + exif, b"<no/>") == 1
    found = decode(with_segments(jpeg(GRAY), (0xE1, b"Exif\0\0" + exif)), 60)
    assert found.converted == () and np.array_equal(found.gray, decode(jpeg(GRAY), 60).gray)


def test_a_thumbnail_s_orientation_does_not_count():
    """It is in the second directory."""
    both = exif_data(1)[:-4] + struct.pack("<I", 26) + exif_data(6)[8:]
    assert orientation_of(both, b"") == 1
