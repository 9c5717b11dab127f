"""Every kind of JPEG: its right pixels, or a reason in words; never a crash and never minutes.

The kinds that once overwrote memory or took minutes are tried in a process of their own.
"""

import base64
import io
import os
import pickle
import re
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from shards.renditions.source import RejectedImage, decode
from tests.image_files import (
    blocks_jpeg,
    exif_data,
    frame_header,
    lossless_jpeg,
    progressive_jpeg,
    segment,
    with_segments,
)
from tests.releases import jpeg, smooth_image

GRAY = smooth_image(np.random.default_rng(0), 70, 60)
COLOUR = np.ascontiguousarray(np.dstack([GRAY, GRAY[::-1], GRAY[:, ::-1]]))  # RGB
BLOCKS = 40 + 3 * np.mgrid[0:16, 0:16][0] + 2 * np.mgrid[0:16, 0:16][1]
# (4 y + x) % 256 in 40 x 48, by libjpeg-turbo's cjpeg -arithmetic -quality 60, and the same with -progressive
ARITHMETIC = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQ"
    "YEpRUk//yQALCAAoADABAREA/8wABgAQEAX/2gAIAQEAAD8A/wCx920OQ7ln3W3yaJZdtMIBkURSQ5DBr6C8eP3I7+MaLCEXxWsiES6noTGEMO4j"
    "UVDSYYD/2Q==",
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQ"
    "YEpRUk//ygALCAAoADABAREA/8wABAAQ/9oACAEBAAAAAf8AYiOaPFcb9Bq2+plU/8wABBAF/9oACAEBAAEFApYTBBnjiRKo/8wABBAF/9oACAEB"
    "AAY/ArD/zAAEEAX/2gAIAQEAAT8h9drI1kkkkP/aAAgBAQAAABA8hRdQ/8wABBAF/9oACAEBAAE/EB9VPAcx6DtO8c+g/9k=",
)


def opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)


def reason(data, least=32):
    with pytest.raises(RejectedImage) as error:
        decode(data, least)
    assert "\n" not in str(error.value)
    return str(error.value)


def in_a_process(code, *data):
    """The lines that `code` prints; `files` are the data."""
    program = (
        f"import sys, pickle; from shards.renditions.source import *; files = pickle.load(sys.stdin.buffer)\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(data), capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode().splitlines()


# ---------------------------------------------------------------- lossless


def test_a_lossless_jpeg_is_decoded_whole_whatever_scale_is_asked_for():
    film = smooth_image(np.random.default_rng(1), 300, 280)
    assert (
        in_a_process(
            "for least in (32, 48, 100, 224, 1000): f = decode(files[0], least); "
            "print(f.converted, f.gray.shape, f.gray.tobytes() == files[1])",
            lossless_jpeg(film),
            film.tobytes(),
        )
        == ["('lossless',) (300, 280) True"] * 5
    )


@pytest.mark.parametrize("bits", range(2, 8))
def test_a_lossless_jpeg_of_few_bits_is_spread_as_a_png_is(bits):
    values = GRAY >> 8 - bits
    found = decode(lossless_jpeg(values, bits), 60)
    assert np.abs(found.gray - values * (255 / (2**bits - 1))).max() <= 0.5 and found.gray.max() > 127
    spread = np.round((COLOUR >> 8 - bits) * (255 / (2**bits - 1))).astype(np.uint8)
    found = decode(lossless_jpeg(COLOUR >> 8 - bits, bits), 60)
    assert np.array_equal(found.gray, cv2.cvtColor(spread, cv2.COLOR_RGB2GRAY))
    ink = np.dstack([COLOUR, 255 - GRAY // 4]) >> 8 - bits
    assert reason(lossless_jpeg(ink, bits)) == f"not supported: a CMYK JPEG of {bits} bits; convert it to a PNG first"


def test_lossless_colour_becomes_gray_as_a_png_s():
    for first in (0, 1, ord("R")):
        found = decode(lossless_jpeg(COLOUR, first=first), 32)
        assert found.converted == ("RGB", "lossless")
        assert np.array_equal(found.gray, cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY))
    cmyk = np.dstack([COLOUR, 255 - GRAY // 4])
    found = decode(lossless_jpeg(cmyk), 32)
    assert found.converted == ("CMYK", "lossless")
    assert np.abs(found.gray - cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY) * (cmyk[:, :, 3] / 255)).max() < 3
    ycc = with_segments(lossless_jpeg(COLOUR), (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"))
    assert reason(ycc) == "not supported: a lossless JPEG in YCbCr or YCCK; convert it to a PNG first"


def test_a_lossless_jpeg_cut_or_flipped_is_damaged():
    data = lossless_jpeg(GRAY)
    for length in range(100, len(data), 50):
        assert reason(data[:length]).startswith("damaged JPEG: ")


# ---------------------------------------------------------------- not supported, and headers that make no sense


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_more_than_8_bits_are_not_called_damaged(bits):
    data = lossless_jpeg(GRAY.astype(int) << bits - 8, bits)
    assert reason(data) == f"not supported: a JPEG of {bits} bits; convert it to a 16-bit PNG first"
    data = jpeg(GRAY).replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc1\0\x0b\x0c")
    assert reason(data) == "not supported: a JPEG of 12 bits; convert it to a 16-bit PNG first"


def headed(frame):
    """An ordinary JPEG with another frame header."""
    data = jpeg(GRAY)
    start = data.index(b"\xff\xc0")
    return data[:start] + frame + data[start + 13 :]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        *[(frame_header(marker, 70, 60), "a hierarchical JPEG") for marker in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)],
        (frame_header(0xDE, 70, 60) + frame_header(0xC0, 70, 60), "a hierarchical JPEG"),
        (frame_header(0xF7, 70, 60), "a JPEG-LS image"),
        (frame_header(0xCB, 70, 60), "a lossless JPEG with arithmetic coding"),
        (frame_header(0xC0, 0, 60), "a JPEG that says its height behind its pixels (DNL)"),
        *[(frame_header(0xC0, 70, 60, ((1, 1),) * n), f"a JPEG of {n} components") for n in (2, 5, 255)],
    ],
)
def test_sound_kinds_that_nothing_here_reads_are_named(frame, words):
    assert reason(headed(frame)) == f"not supported: {words}; convert it to a PNG first"


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (frame_header(0xC0, 70, 60, ()), "a frame header of 6 bytes"),
        (frame_header(0xC0, 70, 60)[:4] + b"\x08", "a frame header of"),
        (frame_header(0xC0, 70, 60, ((0, 1),)), "sampling 0x1"),
        (frame_header(0xC0, 70, 60, ((1, 1), (5, 1), (1, 15))), "sampling 1x1 5x1 1x15"),
        *[(frame_header(0xC0, 70, 60, bits=bits), f"values of {bits} bits") for bits in (0, 7, 9, 16, 255)],
        *[(frame_header(0xC3, 70, 60, bits=bits), f"values of {bits} bits") for bits in (0, 1, 17)],
        (b"", "holds no pixels|has no header"),
    ],
)
def test_nonsense_in_a_header_is_damage(frame, words):
    assert re.match(f"damaged JPEG: ({words})", reason(headed(frame)))


# ---------------------------------------------------------------- the second decoder


@pytest.mark.parametrize("sampling", [(4, 2), (2, 4), (3, 1), (1, 3), (3, 2)], ids="{0[0]}x{0[1]}".format)
def test_odd_sampling_is_read_by_the_second_decoder(sampling):
    blocks = BLOCKS[: 12 if 3 in sampling else 16, : 12 if 3 in sampling else 16]
    data = blocks_jpeg(blocks, (sampling, (1, 1), (1, 1)))
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(data, "GRAY")
    found = decode(data, 32)
    assert np.array_equal(found.gray, blocks.repeat(8, 0).repeat(8, 1)) and found.converted == ("RGB",)
    turned = with_segments(data, (0xE1, b"Exif\0\0" + exif_data(6)))
    assert np.array_equal(decode(turned, 32).gray, np.rot90(found.gray, -1))  # once, not also by OpenCV


def test_the_second_decoder_lets_no_damage_in(capfd):
    """What libjpeg says of it is heard, and not shown."""
    data = blocks_jpeg(BLOCKS)
    for length in range(0, len(data), 3):
        reason(data[:length])
    scan = data.index(b"\xff\xda") + 14
    padded = data[:-2] + bytes(9) + data[-2:]
    assert opencv(padded) is not None
    assert "Corrupt JPEG data" in capfd.readouterr().err
    assert reason(padded) == "damaged JPEG: Corrupt JPEG data: 5 extraneous bytes before marker 0xd9"
    said = [
        str(error)
        for place in range(scan, len(data) - 2)
        for error in [_damage(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])]
        if error
    ]
    assert any("Corrupt JPEG data: " in words for words in said)
    assert capfd.readouterr().err == ""


def _damage(data):
    try:
        decode(data, 32)
    except RejectedImage as error:
        return error
    return None


def test_what_other_threads_write_meanwhile_is_not_lost_and_no_damage(capfd):
    data, stop = blocks_jpeg(np.tile(BLOCKS, (8, 8))), threading.Event()
    written = []

    def write():
        while not stop.is_set():
            written.append(b"line %d\n" % len(written))
            os.write(2, written[-1])
            time.sleep(0.0005)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = [decode(data, 32).gray for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    assert all(np.array_equal(each, found[0]) for each in found)
    assert sorted(capfd.readouterr().err.splitlines()) == sorted(line.decode().strip() for line in written)


# ---------------------------------------------------------------- arithmetic coding, scans


@pytest.mark.parametrize("name", ["arithmetic", "progressive"])
def test_arithmetic_coding_is_read_at_every_scale(name):
    data = base64.b64decode(ARITHMETIC[name == "progressive"])
    y, x = np.mgrid[0:40, 0:48]
    found = decode(data, 40)
    assert found.converted == (("arithmetic",) if name == "arithmetic" else ("progressive", "arithmetic"))
    assert np.abs(found.gray.astype(int) - (4 * y + x))[:, :].mean() < 3
    assert decode(data, 20).gray.shape == (20, 24)


def test_many_scans_are_refused_before_they_are_decoded():
    started = time.monotonic()
    assert reason(progressive_jpeg(10_000, 21)) == "too slow to decode: 10000 x 10000 in 21 scans"
    assert reason(progressive_jpeg(4000, 883)) == "too slow to decode: 4000 x 4000 in 883 scans"
    assert time.monotonic() - started < 5
    few = progressive_jpeg(1000, 883)
    assert decode(few, 100).converted == ("progressive",)
    hidden = few.replace(b"\xff\xda", segment(0xFE, b"\xff\xd9\xff\xda") + b"\xff\xda")  # a note with an end in it
    assert decode(hidden, 100).gray.shape == (125, 125)


def test_neither_a_note_that_looks_like_an_end_nor_a_restart_hides_scans():
    data = progressive_jpeg(4000, 883)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    for between in (segment(0xFE, b"\xff\xd9"), b"\xff\xd0\0"):
        assert "883 scans" in reason(data[:second] + between + data[second:])


def test_arithmetic_coding_is_slow_so_less_of_it_is_read():
    data = base64.b64decode(ARITHMETIC[0])
    assert (
        reason(data + bytes(80_000_000))
        == f"too slow to decode: {80_000_000 + len(data):,} bytes with arithmetic coding"
    )


def test_memory_is_bounded_too():
    frame = frame_header(0xC2, 9000, 9000, ((1, 1),) * 4)
    assert reason(headed(frame)) == "larger than 400 MB in memory: 9000 x 9000 take 1053 MB"
    assert reason(b"\xff\xd8" + segment(0xFE, b"") * 1_000_001) == "damaged JPEG: more than 1,000,000 markers"


# ---------------------------------------------------------------- what is left alone (docs/reliability.md)


def test_the_first_picture_is_packed_not_a_thumbnail_or_one_behind_it():
    small, other = jpeg(np.full((40, 40), 200, np.uint8)), jpeg(255 - GRAY)
    plain = decode(jpeg(GRAY), 60)
    for data in (
        with_segments(jpeg(GRAY), (0xE1, b"Exif\0\0" + exif_data(1) + small)),
        with_segments(jpeg(GRAY), (0xE2, b"MPF\0" + bytes(90))) + other,
        jpeg(GRAY) + other,
        jpeg(GRAY) + b"a video, or anything",
        with_segments(jpeg(GRAY), (0xE2, b"ICC_PROFILE\0\1\1" + bytes(200))),
        with_segments(jpeg(GRAY), (0xE0, b"JFIF\0\1\2\1\0\1\0\2\0\0")),  # pixels twice as high as wide
    ):
        found = decode(data, 60)
        assert np.array_equal(found.gray, plain.gray) and found.converted == ()
        assert np.array_equal(found.gray, opencv(data))


def adobe(transform):
    return 0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform])


def bare(data):
    """A JPEG without its application segments."""
    start = next(place for place in range(2, len(data)) if data[place : place + 2] == b"\xff\xdb")
    return data[:2] + data[start:]


def test_the_colours_are_those_that_pillow_and_opencv_read():
    ycc = bare(simplejpeg.encode_jpeg(COLOUR, 95, "RGB", "444"))
    cmyk = bare(simplejpeg.encode_jpeg(np.ascontiguousarray(np.dstack([COLOUR, 255 - GRAY // 4])), 95, "CMYK", "444"))
    for data, kind in (
        *[(data, "RGB") for data in (ycc, with_segments(ycc, adobe(0)), with_segments(ycc, adobe(1)))],
        *[(data, "CMYK") for data in (cmyk, with_segments(cmyk, adobe(0)), with_segments(cmyk, adobe(2)))],
    ):
        found, pillow = decode(data, 60), np.array(Image.open(io.BytesIO(data)).convert("L"))
        assert found.converted == (kind,)
        assert np.array_equal(found.gray, opencv(data)) and np.abs(found.gray.astype(int) - pillow).mean() < 1.1
    assert not np.array_equal(decode(with_segments(ycc, adobe(0)), 60).gray, decode(ycc, 60).gray)
    assert reason(with_segments(ycc, adobe(7))) == "damaged JPEG: Unknown Adobe color transform code 7"


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("kind", ["progressive", "odd", "lossless", "png"])
def test_missing_memory_is_not_called_damage(kind):
    """Under every limit the image comes out, or MemoryError."""
    film = smooth_image(np.random.default_rng(1), 1200, 1200)
    data = {
        "progressive": cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
        "odd": blocks_jpeg(np.tile(BLOCKS, (10, 10)), marker=0xC2),
        "lossless": lossless_jpeg(np.dstack([film[::4, ::4]] * 3)),
        "png": cv2.imencode(".png", np.dstack([film] * 3))[1].tobytes(),
    }[kind]
    outcomes = in_a_process(
        """
import os, resource, cv2
cv2.setNumThreads(1)
for steps in range(20):
    if not (child := os.fork()):
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + steps * 1_000_000,) * 2)
        try:
            decode(files[0], 600)
        except MemoryError:
            os._exit(7)
        except BaseException as error:
            os.write(1, repr(error).encode())
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
        data,
    )
    assert set(outcomes) == {"0", "7"}
