"""What is no JPEG, PNG or DICOM is named, with what to do; the part before the first colon is one per kind."""

import gzip
import io
import tarfile
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from shards.decoding.decoded import RejectedImage
from shards.decoding.magic import image_kind
from shards.renditions.source import kind_of
from tests.releases import jpeg, smooth_image

GRAY = smooth_image(np.random.default_rng(0), 70, 60)


def reason(data):
    with pytest.raises(RejectedImage) as error:
        image_kind(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def written(suffix):
    if suffix != ".gif":
        return cv2.imencode(suffix, GRAY)[1].tobytes()
    buffer = io.BytesIO()
    Image.fromarray(GRAY).save(buffer, "gif")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (written(".webp"), "a WebP image"),
        (written(".tiff"), "a TIFF image"),
        (b"MM\0*" + bytes(99), "a TIFF image"),
        (b"II+\0\x08\0\0\0" + bytes(99), "a TIFF image"),
        (written(".jp2"), "a JPEG 2000 image"),
        (b"\xff\x4f\xff\x51\0\x29" + bytes(99), "a JPEG 2000 image"),
        (written(".bmp"), "a BMP image"),
        (written(".gif"), "a GIF image"),
        (written(".pgm"), "a Netpbm image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "an AVIF image"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\xff\x0a\xb1\x40\x50", "a JPEG XL image"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG image"),
        (bytes(344) + b"n+1\0", "a NIfTI image"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    ],
)
def test_images_of_other_kinds_are_named(data, name):
    assert reason(data) == f"not supported: {name}; convert it to a PNG first"


def archive(kind):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("a.jpg", jpeg(GRAY))
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as file:
            file.addfile(tarfile.TarInfo("a.jpg"))
    else:
        return gzip.compress(jpeg(GRAY))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "gzip", "tar"])
def test_an_archive_is_to_be_unpacked(kind):
    assert reason(archive(kind)) == f"an archive, not an image: a {kind} file; unpack it"


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><p>", b"\n\n <html lang=en>", b"\xef\xbb\xbf<HTML>", b"<!-- login --><html>"]
)
def test_a_login_page_is_to_be_downloaded_again(page):
    assert reason(page) == "a web page, not an image: download it again"


def test_answers_of_servers_pointers_and_zeros():
    answer = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
    assert reason(answer).startswith("an XML text, not an image: ")
    assert reason(b'{"message": "401"}').startswith("a JSON text, not an image: ")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    assert reason(pointer) == "a Git LFS pointer, not the image: git lfs pull fetches it"
    assert reason(b"/annex/objects/MD5E-s1--x.jpg").startswith("a git-annex pointer, not the image: ")
    assert reason(b"%PDF-1.7\n") == "a PDF, not an image: save its picture as a PNG"
    assert reason(bytes(2000)) == "all bytes are zero: 2,000 of them; copy or download it again"
    assert kind_of(reason(bytes(2000))) == kind_of(reason(bytes(20))) == "all bytes are zero"


def test_an_image_that_a_transfer_as_text_changed_is_named():
    png = cv2.imencode(".png", GRAY)[1].tobytes()
    for changed in (
        png.replace(b"\r\n", b"\n"),
        png.replace(b"\n", b"\r\n"),
        png.decode("latin-1").encode(),
        png.decode("utf-8", "replace").encode(),
        jpeg(GRAY).decode("latin-1").encode(),
        jpeg(GRAY).decode("utf-8", "replace").encode(),
    ):
        assert reason(changed) == "an image damaged as text: copy or download it as binary"


@pytest.mark.parametrize(
    "data",
    [
        bytes(128) + b"DICM\2\0\0\0UL",
        b"II*\0".ljust(128, b"x") + b"DICM\2\0\0\0UL",  # a TIFF as well, as pathology has them
        b"\x08\0\x05\0CS\x0a\0ISO_IR 100",
        b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100",
        b"\0\x08\0\x05CS\0\x0aISO_IR 100",
        b"\2\0\0\0UL\4\0\xc2\0\0\0",
        b"\2\0\x10\0UI\x14\0" + b"1.2.840.10008.1.2.1\0",
    ],
)
def test_a_dicom_is_known_with_and_without_a_preamble(data):
    assert image_kind(data) == "DICOM"


def test_images_are_told_apart_and_anything_else_shows_how_it_begins():
    assert image_kind(jpeg(GRAY)) == "JPEG" and image_kind(written(".png")) == "PNG"
    for data in (b"x", b"\xff\xd8", b"BM but a text", b"RIFF", b"P5x", b"GIF"):
        assert reason(data) == f"not a JPEG, PNG or DICOM image: begins with {data[:12]!r}"
