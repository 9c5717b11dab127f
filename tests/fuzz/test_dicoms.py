"""DICOMs of every transfer syntax, damaged and with nonsense in their headers: an image or a reason, never a crash."""

import os
import random
import struct
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from pydicom.uid import JPEGBaseline8Bit

from shards.decoding.decoded import RejectedImage
from shards.decoding.tags import Tags, read_tags
from shards.renditions.source import Source, decode
from tests.dicom_files import LOSSLESS, dicom, extended, framed
from tests.fuzz import damaged
from tests.releases import jpeg, smooth_image

pytestmark = pytest.mark.slow

FILES = 600
VALUES = [0, 1, 2, 3, 7, 8, 9, 11, 12, 15, 16, 17, 32, 40, 47, 48, 49, 255, 256, 65535]


@cache
def corpus() -> list[bytes]:
    """Sound files."""
    gray = smooth_image(np.random.default_rng(0), 48, 40)
    deep = gray.astype(np.uint16) * 16
    window = {"WindowCenter": 2000, "WindowWidth": 1000, "RescaleSlope": 2, "RescaleIntercept": -7}
    return [
        *[dicom(deep, 12, syntax, **window) for syntax in LOSSLESS],
        *[dicom(gray, 8, syntax, PhotometricInterpretation="MONOCHROME1") for syntax in LOSSLESS],
        *[dicom(np.dstack([gray] * 3), 8, syntax) for syntax in LOSSLESS[:6]],
        dicom(deep.astype(np.int16) - 2048, 12, PixelPaddingValue=-2048),
        framed(jpeg(gray), gray, 8, JPEGBaseline8Bit, pieces=3),
        extended(np.random.default_rng(0).integers(0, 4096, (6, 5)))[0],
    ]


def mutated(seed: int) -> bytes:
    """One file of the corpus with other values in its header, other damage, both, or neither."""
    rng = random.Random(seed)
    data = rng.choice(corpus())
    how = rng.random()
    if how < 0.6:
        data = _reheaded(data, rng)
    return damaged(data, seed) if how > 0.5 else data


def _reheaded(data: bytes, rng: random.Random) -> bytes:
    """One to three numbers of the image's group changed, or a length."""
    out = bytearray(data)
    places = [
        at for at in range(132, len(data) - 10) if data[at : at + 2] == b"\x28\0" and data[at + 4 : at + 6] == b"US"
    ]
    for at in rng.sample(places, min(len(places), rng.randint(1, 3))):
        struct.pack_into("<H", out, at + (6 if rng.random() < 0.1 else 8), rng.choice(VALUES))
    return bytes(out)


def check_dicom(seed: int) -> bool:
    """Whether one file came out as an image; it was rejected in one line if not. Its tags are read or not."""
    data, rng = mutated(seed), random.Random(seed)
    try:
        assert isinstance(read_tags(data), Tags)
    except RejectedImage as error:
        assert str(error).isprintable() and 0 < len(str(error)) < 250
    try:
        found = decode(data, rng.choice([32, 40, 1000]), window=rng.choice(["percentile", "minmax", "dicom"]))
    except RejectedImage as error:
        assert str(error).isprintable() and 0 < len(str(error)) < 250
        return False
    assert isinstance(found, Source) and found.gray.dtype == np.uint8
    assert 0 < found.gray.shape[0] <= found.height and 0 < found.gray.shape[1] <= found.width
    return True


def test_every_file_of_the_corpus_is_an_image():
    assert all(decode(data, 48).gray.shape == (48, 40) for data in corpus())


def test_damaged_dicoms_end_no_process():
    code = (
        "from tests.fuzz.test_dicoms import check_dicom\n"
        f"for seed in range({FILES}):\n"
        "    print(seed, end=' ', flush=True)\n"
        "    print('image' if check_dicom(seed) else 'rejected', flush=True)\n"
    )
    checks = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **checks}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-2000:])
    images, rejected = done.stdout.count("image"), done.stdout.count("rejected")
    assert images + rejected == FILES and min(images, rejected) > FILES / 5
