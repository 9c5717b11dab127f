"""What an image file may be: converted and counted, or rejected with the reason."""

import errno
import hashlib
import os
import socket
import struct
import zlib
from unittest import mock

import cv2
import numpy as np
import pytest
import simplejpeg

from shards.errors import UserError
from shards.releases.checksums import CHECKSUMS
from shards.renditions.source import RejectedImage, decode, read
from shards.storage.disk import Disk
from tests.releases import jpeg, smooth_image

GRAY = smooth_image(np.random.default_rng(0), 70, 60)
COLOUR = np.ascontiguousarray(np.dstack([GRAY, GRAY[::-1], GRAY[:, ::-1]]))  # RGB


def opencv(data):
    """OpenCV's own reading as gray, as an independent reference."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def difference(one, other):
    return np.abs(one.astype(int) - other).mean()


def reason(data, name=""):
    with pytest.raises(RejectedImage) as error:
        decode(data, 32, name)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- converted


def test_gray_baseline_jpeg_and_gray_png_are_taken_as_they_are():
    for data in (jpeg(GRAY), png(GRAY)):
        found = decode(data, 60)
        assert (found.height, found.width, found.converted) == (70, 60, ())
        assert np.array_equal(found.gray, opencv(data))


def test_colour_becomes_gray_as_opencv_makes_it():
    for data in (simplejpeg.encode_jpeg(COLOUR, 95), png(COLOUR)):
        found = decode(data, 60)
        assert found.converted == ("RGB",) and found.gray.shape == (70, 60)
        assert difference(found.gray, opencv(data)) < 0.6


def test_a_progressive_jpeg_is_counted_whatever_its_colours():
    for image, kinds in ((GRAY, ("progressive",)), (COLOUR, ("RGB", "progressive"))):
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
        found = decode(data, 60)
        assert found.converted == kinds and difference(found.gray, opencv(data)) < 0.6


def test_cmyk_becomes_gray_with_its_black_plate():
    light = np.dstack([COLOUR, GRAY // 2 + 100])  # as Adobe stores it: 255 is no ink
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(light), 98, "CMYK", "444")
    found = decode(data, 60)
    expected = cv2.cvtColor((COLOUR * (light[:, :, 3:] / 255)).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    assert found.converted == ("CMYK",) and difference(found.gray, expected) < 1.5
    assert difference(found.gray, opencv(data)) < 1.5


def deep(most):
    """GRAY in 16 bits, its brightest pixel `most`."""
    return (GRAY.astype(np.uint32) * most // GRAY.max()).astype(np.uint16)


@pytest.mark.parametrize("most", [65535, 3900, 200])
def test_16_bits_become_8_through_the_window(most):
    pixels = deep(most)
    for window, limits in (
        ("percentile", np.percentile(pixels, [0.5, 99.5])),
        ("minmax", (pixels.min(), pixels.max())),
        *([("full", (0, 65535))] if most == 65535 else []),
    ):
        found = decode(png(pixels), 60, window=window)
        expected = np.interp(pixels, limits, (0, 255))  # clips outside
        assert found.converted == ("16-bit",) and np.abs(found.gray - expected).max() <= 0.5 + 1e-9
    assert np.array_equal(decode(png(pixels), 60).gray, decode(png(pixels), 60, window="percentile").gray)


@pytest.mark.parametrize(("most", "bits"), [(4095, 12), (2048, 12), (1023, 10), (1, 1)])
def test_few_bits_in_16_are_refused_under_full_with_their_number_and_the_way_out(most, bits):
    pixels = np.minimum(GRAY.astype(np.uint16) * 17, most)
    assert pixels.max() == most
    with pytest.raises(RejectedImage) as error:
        decode(png(pixels), 32, window="full")
    assert str(error.value) == (
        "nearly black under --window full, pack with --window percentile or minmax: "
        f"a 16-bit image that uses {bits} bits"
    )
    for window in ("percentile", "minmax"):
        assert decode(png(pixels), 32, window=window).gray.max() == 255
    assert decode(png(deep(4096)), 32, window="full").gray.max() == 16


@pytest.mark.parametrize("window", ["percentile", "minmax", "full"])
def test_8_bits_are_not_windowed(window):
    for data in (png(GRAY), jpeg(GRAY)):
        assert np.array_equal(decode(data, 60, window=window).gray, opencv(data))


def test_monochrome1_is_inverted_after_the_window_and_counted():
    for data, kinds in ((png(GRAY), ()), (jpeg(GRAY), ()), (png(deep(3900)), ("16-bit",))):
        plain, found = decode(data, 60), decode(data, 60, inverted=True)
        assert found.converted == (*kinds, "MONOCHROME1")
        assert np.array_equal(found.gray.astype(int), 255 - plain.gray.astype(int))


def test_transparent_pixels_are_black_and_opaque_ones_unchanged():
    alpha = np.full((70, 60), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 51
    found = decode(png(np.dstack([GRAY, GRAY, GRAY, alpha])), 60)
    assert found.converted == ("RGBA",)
    assert not found.gray[:10].any() and np.array_equal(found.gray[20:], GRAY[20:])
    assert np.abs(found.gray[10:20] - GRAY[10:20] / 5).max() <= 0.51


def test_deep_colour_is_both():
    colour = (COLOUR.astype(np.uint16) + 1) * 250
    alpha = np.full((70, 60), 65535, np.uint16)
    alpha[:10] = 0
    found = decode(png(np.dstack([colour, alpha])), 60, window="full")
    assert found.converted == ("RGBA", "16-bit") and found.gray.dtype == np.uint8
    luma = colour[:, :, ::-1] @ np.array([0.299, 0.587, 0.114])  # the PNG was written as BGR
    assert not found.gray[:10].any() and np.abs(found.gray - luma / 257)[10:].max() < 0.6


# ---------------------------------------------------------------- rejected


def test_what_is_no_image_or_not_the_named_kind_is_rejected():
    assert reason(b"nothing known") == "not a JPEG, PNG or DICOM image: begins with b'nothing know'"
    assert reason(png(GRAY), "a.jpg") == "wrong magic for its name: named as JPEG, holds PNG"
    assert reason(jpeg(GRAY), "a.PNG") == "wrong magic for its name: named as PNG, holds JPEG"
    assert decode(jpeg(GRAY), 32, "a.JPEG").height == decode(png(GRAY), 32, "a").height == 70


def encodings():
    yield "baseline", jpeg(GRAY)
    yield "progressive", cv2.imencode(".jpg", GRAY, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    yield "restarts", cv2.imencode(".jpg", GRAY, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    yield "colour", simplejpeg.encode_jpeg(COLOUR, 80)
    yield "cmyk", simplejpeg.encode_jpeg(np.ascontiguousarray(np.dstack([COLOUR, GRAY])), 80, "CMYK")
    yield "png", png(GRAY)
    yield "16-bit png", png(GRAY.astype(np.uint16) * 257)


@pytest.mark.parametrize(("name", "data"), encodings(), ids=lambda value: value if isinstance(value, str) else "")
def test_an_image_cut_at_any_byte_is_rejected(name, data):
    assert decode(data, 32).height == 70
    for length in range(len(data)):
        reason(data[:length])


def test_a_bit_flipped_anywhere_in_a_png_is_rejected():
    data = png(GRAY)
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        reason(bytes(flipped))


@pytest.mark.parametrize("least", [48, 224, 2000], ids="scale {}".format)
def test_a_large_jpeg_cut_or_blanked_is_rejected_at_every_scale(least):
    data = jpeg(smooth_image(np.random.default_rng(1), 1500, 1200))
    for share in (0.05, 0.3, 0.7, 0.95, 0.999):
        kept = int(len(data) * share)
        for damaged in (data[:kept], data[:kept] + bytes(len(data) - kept)):
            with pytest.raises(RejectedImage, match="damaged JPEG"):
                decode(damaged, least)


def test_what_libjpeg_only_warns_about_is_rejected():
    data = jpeg(GRAY)
    padded = data[:-2] + bytes(9) + data[-2:]
    assert cv2.imdecode(np.frombuffer(padded, np.uint8), cv2.IMREAD_GRAYSCALE) is not None
    assert reason(padded).startswith("damaged JPEG: Corrupt JPEG data: ")


@pytest.mark.parametrize("encode", [jpeg, png])
def test_images_below_the_least_side_are_rejected(encode):
    for shape in ((1, 1), (31, 500), (500, 31)):
        assert reason(encode(np.zeros(shape, np.uint8))) == f"smaller than 32 px: {shape[0]} x {shape[1]}"
    assert decode(encode(np.zeros((32, 32), np.uint8)), 32).height == 32


def test_images_above_the_limit_are_rejected_before_they_are_decoded():
    """The headers alone say so: decoding these would take gigabytes."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 16, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    large = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    assert reason(large) == "larger than 100 megapixels: 20000 x 20000"
    data = bytearray(jpeg(GRAY))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", 20_000, 20_000)
    assert reason(bytes(data)) == "larger than 100 megapixels: 20000 x 20000"


# ---------------------------------------------------------------- reading


def rejected(*arguments):
    with pytest.raises(RejectedImage) as error:
        read(*arguments)
    return str(error.value)


def test_absent_unreadable_and_empty_files_are_told_apart(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"x")
    assert rejected(tmp_path / "absent.jpg") == "absent" == rejected(tmp_path / "file" / "below.jpg")
    assert rejected(tmp_path / "empty.jpg") == "empty file"
    assert rejected(tmp_path) == f"unreadable: {os.strerror(21)}"


def test_what_is_no_regular_file_or_too_large_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.jpg"))
        for name in ("pipe.jpg", "link.jpg", "device.jpg", "socket.jpg"):
            assert rejected(tmp_path / name) == "not a regular file: a pipe, socket or device"
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(300 << 30)
    assert rejected(tmp_path / "sparse.jpg") == "larger than 256 MB: a file of 322,122,547,200 bytes"
    (tmp_path / "image.jpg").write_bytes(jpeg(GRAY))
    (tmp_path / "good.jpg").symlink_to("image.jpg")
    assert read(tmp_path / "good.jpg") == jpeg(GRAY)


def test_a_disk_that_fails_for_the_moment_is_no_fault_of_the_image(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(GRAY))
    reading = mock.Mock()
    monkeypatch.setattr(Disk, "read_bytes", reading)
    for number in (errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT):
        reading.side_effect = OSError(number, os.strerror(number))
        with pytest.raises(UserError, match="a.jpg: cannot be read .*, which is not the image's fault; the same comm"):
            read(path)
    # a broken sector, or a passing error: it is read again in the next run
    reading.side_effect = OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(RejectedImage, match="unreadable: Input/output error") as error:
        read(path)
    assert error.value.may_pass


def test_a_published_hash_decides(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(GRAY))
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read(path, None, good) == path.read_bytes()
    assert rejected(path, None, "0" * 64) == f"sha256 differs from {CHECKSUMS}"
    assert rejected(path, None, "") == f"not listed in {CHECKSUMS}"


def test_a_link_may_lead_anywhere_inside_and_nowhere_outside(tmp_path):
    release, other = tmp_path / "release", tmp_path / "release-2"  # a name that begins with the other
    for folder in (release, other):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(jpeg(GRAY))
    (release / "inside.jpg").symlink_to("a.jpg")
    (release / "outside.jpg").symlink_to(other / "a.jpg")
    (release / "folder").symlink_to(other)
    inside = os.path.realpath(release)
    assert read(release / "inside.jpg", inside) == read(release / "outside.jpg") == jpeg(GRAY)
    for name in ("outside.jpg", "folder/a.jpg"):
        said = "outside the release, without --allow-links: a link to"
        assert rejected(release / name, inside) == f"{said} {other / 'a.jpg'}"
