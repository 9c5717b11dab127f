"""DICOMs that are cut off, lie, nest and inflate: a reason each, no crash, within bounds of memory and time."""

import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from shards.decoding.decoded import RejectedImage
from shards.decoding.tags import read_tags
from shards.renditions.source import decode, kind_of
from tests.cli.cli import ROOT, environment
from tests.dicom_files import LOSSLESS, NATIVE, dataset, dicom, extended, framed, without_preamble, written
from tests.image_files import lossless_jpeg
from tests.releases import jpeg, smooth_image

GRAY = smooth_image(np.random.default_rng(0), 70, 60)
DEEP = GRAY.astype(np.uint16) * 16 + np.random.default_rng(1).integers(0, 16, GRAY.shape, dtype=np.uint16)
META = without_preamble(dicom(GRAY, 8), meta=False)
SQ, ITEM = b"\x08\0\x12\x11SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\0\xe0\xff\xff\xff\xff"
IMAGE = dicom(GRAY, 8)


def reason(data):
    with pytest.raises(RejectedImage) as error:
        decode(data, 32)
    assert "\n" not in str(error.value) and error.value.__cause__ is None
    return str(error.value)


def file_of(*elements, syntax=ExplicitVRLittleEndian):
    """A file of elements that are given as bytes."""
    made = Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID, made.file_meta.MediaStorageSOPClassUID = syntax, "1.2"
    made.file_meta.MediaStorageSOPInstanceUID, made.SOPInstanceUID = "1.2.3", "1.2.3"
    head = written(made)
    if syntax == DeflatedExplicitVRLittleEndian:
        head = head[: 144 + int.from_bytes(head[140:144], "little")]
        deflate = zlib.compressobj(9, wbits=-15)
        return head + deflate.compress(b"".join(elements)) + deflate.flush()
    return head + b"".join(elements)


# ---------------------------------------------------------------- cut off


@pytest.mark.parametrize("syntax", [*LOSSLESS, None], ids=lambda uid: uid.name if uid else "JPEG")
def test_a_file_cut_off_anywhere_is_rejected(syntax):
    data = dicom(DEEP, 12, syntax) if syntax else framed(jpeg(GRAY), GRAY, 8, JPEGBaseline8Bit)
    decode(data, 32)
    for end in [*range(0, len(data) - 8, 64), len(data) - 9]:
        assert kind_of(reason(data[:end])) in ("damaged DICOM", "no pixels", "all bytes are zero", "damaged JPEG"), end


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
def test_an_image_cut_off_in_a_sound_file_is_rejected(syntax):
    if syntax in NATIVE:
        made = dataset(DEEP, 12, syntax)
        made.PixelData = made.PixelData[:-2]
        said = reason(written(made))
        assert said == "damaged DICOM: 8,398 bytes of pixels, its header says 8,400"
        return
    whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom(DEEP, 12, syntax)))
    frame = next(pydicom.encaps.generate_frames(whole.PixelData, number_of_frames=1))
    for part in (0.3, 0.95)[syntax == JPEGLSLossless :]:  # CharLS takes 3 s to say so
        assert reason(framed(frame[: int(part * len(frame))], DEEP, 12, syntax)).startswith("damaged DICOM: "), part


def test_more_pixels_than_the_header_says_are_not_cut_off_unsaid():
    made = dataset(DEEP, 12)
    made.PixelData = made.PixelData + bytes(120)
    assert reason(written(made)) == "damaged DICOM: 8,520 bytes of pixels, its header says 8,400"
    assert "no pixels" not in reason(written(dataset(DEEP, 12, Rows=69)))


# ---------------------------------------------------------------- no image


@pytest.mark.parametrize("name", ["test-SR.dcm", "reportsi.dcm", "rtplan.dcm", "rtstruct.dcm", "waveform_ecg.dcm"])
def test_objects_without_pixels_are_named(name):
    said = reason(open(get_testdata_file(name, download=False), "rb").read())  # noqa: SIM115, PTH123
    assert said.startswith("no pixels: a DICOM of the kind ") and said.endswith(
        " without any of whole numbers, or cut off before them"
    )


def test_a_presentation_state_a_document_and_an_index_are_named():
    for uid, name in (
        ("1.2.840.10008.5.1.4.1.1.11.1", "Grayscale Softcopy Presentation State Storage"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "Encapsulated PDF Storage"),
        ("1.2.840.10008.1.3.10", "Media Storage Directory Storage"),
    ):
        made = dataset(GRAY, 8, PixelData=None, SOPClassUID=uid, EncapsulatedDocument=b"%PDF-1.7 ")
        assert (
            reason(written(made))
            == f"no pixels: a DICOM of the kind {name} without any of whole numbers, or cut off before them"
        )
    assert reason(written(dataset(GRAY, 8, PixelData=None, SOPClassUID="1.2.3"))).startswith(
        "no pixels: a DICOM without"
    )


def test_several_frames_are_refused_whether_or_not_the_header_says_so():
    twice = np.concatenate([GRAY, GRAY])
    assert reason(dicom(twice, 8, Rows=70, NumberOfFrames=2)) == (
        "not supported: a DICOM of several frames; convert it to a PNG first"
    )
    assert reason(dicom(twice, 8, Rows=70)).startswith("damaged DICOM: 8,400 bytes of pixels")
    made = dataset(GRAY, 8, JPEGBaseline8Bit)
    made.add_new("PixelData", "OB", pydicom.encaps.encapsulate([jpeg(GRAY), jpeg(GRAY)]))
    made["PixelData"].is_undefined_length = True
    assert reason(written(made)).startswith("not supported: a DICOM of several frames")


# ---------------------------------------------------------------- lies


def test_a_compressed_image_of_another_size_than_the_header_says():
    for syntax in (JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1):
        data = dicom(DEEP, 12, syntax)
        for keyword, value, said in (("Rows", 71, "71 x 60"), ("Columns", 6000, "70 x 6000")):
            whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
            setattr(whole, keyword, value)
            coded = "damaged DICOM: its compressed image is 70 x 60, 1 values of 12 bits"
            assert reason(written(whole)) == f"{coded}; its header says {said}, 1 of 16"
    whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom(DEEP, 12, RLELossless)))
    whole.Rows = 71
    assert reason(written(whole)).startswith("damaged DICOM: ")
    frame = jpeg(GRAY)
    assert "its header says 70 x 61" in reason(framed(frame, GRAY, 8, JPEGBaseline8Bit, Columns=61))


def test_a_syntax_that_is_not_the_images():
    ls = next(pydicom.encaps.generate_frames(dataset_of(JPEGLSLossless).PixelData, number_of_frames=1))
    assert reason(framed(ls, DEEP, 12, JPEGLosslessSV1)) == "damaged DICOM: its JPEG cannot be decoded (gdcm)"
    assert reason(framed(lossless_jpeg(DEEP, 12), DEEP, 12, JPEGLSLossless)).startswith("damaged DICOM: ")
    assert reason(framed(ls, DEEP, 12, JPEG2000Lossless)).startswith("damaged DICOM: ")
    assert reason(framed(ls, DEEP, 12, RLELossless)).startswith("damaged DICOM: ")
    assert "not compressed" in reason(replaced_syntax(dicom(DEEP, 12), JPEGLSLossless))
    assert "are compressed" in reason(replaced_syntax(dicom(DEEP, 12, RLELossless), ExplicitVRLittleEndian))


def dataset_of(syntax):
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom(DEEP, 12, syntax)))


def replaced_syntax(data, syntax):
    """Another one in the header, of whatever length."""
    at = data.index(b"\2\0\x10\0UI") + 6
    length = int.from_bytes(data[at : at + 2], "little")
    text = syntax.encode() + b"\0" * (len(syntax) % 2)
    return data[:at] + struct.pack("<H", len(text)) + text + data[at + 2 + length :]


def fragments(*pieces, end=b"\xfe\xff\xdd\xe0\0\0\0\0"):
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, length) + data for length, data in pieces) + end


@pytest.mark.parametrize(
    "value",
    [
        fragments(),
        fragments((0, b"")),
        fragments((0, b""), (0, b"")),
        fragments((0, b""), (10**6, jpeg(GRAY))),
        fragments((0, b""), (0xFFFFFFFF, jpeg(GRAY))),
        fragments((0, b""), (100, jpeg(GRAY)[:100])),
        fragments((0, b""), (len(jpeg(GRAY)), jpeg(GRAY)), end=b""),
        fragments((0, b""), (len(jpeg(GRAY)), jpeg(GRAY)), end=b"\x08\0\x05\0CS\0\0"),
        b"",
        b"\xff" * 99,
    ],
)
def test_fragments_that_lie(value):
    made = without_pixels()
    assert reason(made + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + value).startswith("damaged ")


def without_pixels():
    """A file up to its pixels, which are to be a JPEG."""
    data = framed(jpeg(GRAY), GRAY, 8, JPEGBaseline8Bit)
    return data[: data.index(b"\xe0\x7f\x10\0OB")]


def test_fragments_of_any_lengths_are_joined_whatever_the_table_of_offsets_says():
    frame = jpeg(GRAY)
    for offsets in (b"", struct.pack("<I", 0), struct.pack("<I", 123456)):
        value = fragments((len(offsets), offsets), (99, frame[:99]), (0, b""), (len(frame) - 99, frame[99:]))
        data = without_pixels() + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + value
        assert np.array_equal(decode(data, 32).gray, decode(frame, 32).gray)


# ---------------------------------------------------------------- headers without an end


def nested(depth, closed=True):
    close = (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth if closed else b""
    return depth * (SQ + ITEM) + close


def sized(depth):
    """Sequences in ViewCodeSequence, each of a length that it says."""
    made = b""
    for _ in range(depth):
        item = b"\xfe\xff\0\xe0" + struct.pack("<I", len(made)) + made
        made = b"\x54\0\x20\2SQ\0\0" + struct.pack("<I", len(item)) + item
    return made


WITHOUT = " without any of whole numbers, or cut off before them"
REST = IMAGE[IMAGE.index(b"\x28\0\2\0US") :]


@pytest.mark.parametrize(
    "elements",
    [
        nested(10_000),
        nested(10_000, closed=False),
        SQ + ITEM * 200_000,
        SQ + 200_000 * (ITEM + b"\xfe\xff\x0d\xe0\0\0\0\0"),
        b"".join(struct.pack("<HH2sH", 9, i % 65536, b"CS", 0) for i in range(120_000)),
        b"\x08\0\x05\0UN\0\0" + struct.pack("<I", 2 << 20) + bytes(2 << 20),
        b"\x08\0\x05\0UN\0\0\xff\xff\xff\xff" + bytes(2 << 20),
        b"\x08\0\x70\0LO\xff\xff",
    ],
    ids=["nested", "nested, open", "items", "closed items", "elements", "a large value", "no end", "beyond the end"],
)
def test_headers_that_do_not_end_are_left(elements):
    for data in (file_of(elements, REST), file_of(elements)):
        assert kind_of(reason(data)) in ("damaged DICOM", "no pixels")
        try:
            read_tags(data)
        except RejectedImage as error:
            assert kind_of(str(error)) in ("damaged DICOM", "no pixels")


def test_what_nests_by_lengths_costs_nothing_where_it_is_not_asked_for():
    data = file_of(sized(3_000), REST)
    assert decode(file_of(REST), 32).gray.shape == (70, 60)
    try:
        assert decode(data, 32).tags.view_position == ""
    except RejectedImage as error:
        assert kind_of(str(error)) == "damaged DICOM"


APART = """
import json, resource, sys, time
from functools import partial
from pathlib import Path
from shards.decoding.decoded import RejectedImage
from shards.packing.make_shard import packed_image
from shards.packing.options import PackOptions
from shards.renditions.decoder import Decoder
from shards.renditions.options import Size

said = {}
for path in map(Path, sys.argv[1:]):
    began = time.monotonic()
    with Decoder(partial(packed_image, PackOptions(sizes=(Size(32),))), 20.0) as decode:
        try:
            decode(path, None, None, False)
            reason = "decoded"
        except RejectedImage as error:
            reason = str(error)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    said[path.name] = [reason, peak, time.monotonic() - began]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_hostile_files_are_rejected_within_a_bound_of_memory_and_time(tmp_path):
    zeros = b"\xe0\x7f\x10\0OW\0\0" + struct.pack("<I", 4_000_000_000)
    facts = without_preamble(dicom(GRAY, 8, Rows=60_000, Columns=40_000), meta=False)
    facts = facts[: facts.index(b"\xe0\x7f\x10\0")]
    files = {
        "sound": IMAGE,
        "bomb": file_of(
            META[: META.index(b"\xe0\x7f\x10\0")], zeros, *[bytes(1 << 22)] * 400, syntax=DeflatedExplicitVRLittleEndian
        ),
        "bomb in the header": file_of(
            *[b"\x09\0\x10\0UN\0\0\0\0\x10\0" + bytes(1 << 20)] * 1_000, syntax=DeflatedExplicitVRLittleEndian
        ),
        "gigapixels": file_of(facts, zeros, bytes(1000)),
        "nested": file_of(nested(10_000), REST),
        "items": file_of(SQ, 4_000_000 * (ITEM + b"\xfe\xff\x0d\xe0\0\0\0\0")),
        "elements": file_of(4_000_000 * b"\x09\0\x10\0CS\0\0"),
        "JPEG 2000": framed(_siz(60_000, 60_000), GRAY, 8, JPEG2000Lossless),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    given = [sys.executable, "-c", APART, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(given, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["sound"][0] == "decoded"
    for name, (reason_, peak, seconds) in said.items():
        assert name == "sound" or kind_of(reason_) in ("damaged DICOM", "larger than 100 megapixels", "no pixels"), (
            reason_
        )
        assert peak < 1_200 and seconds < 10, (name, reason_, peak, seconds)
    assert said["gigapixels"][0].startswith("larger than 100 megapixels: 60000 x 40000")


def _siz(width, height):
    """The beginning of a JPEG 2000 image of one component."""
    size = struct.pack(">HHIIIIIIIIH", 41, 0, width, height, 0, 0, width, height, 0, 0, 1) + b"\7\1\1"
    return b"\xff\x4f\xff\x51" + size + bytes(1000)


def test_a_lossy_jpeg_of_12_bits_that_is_damaged_is_rejected():
    data, _ = extended(np.random.default_rng(0).integers(0, 4096, (9, 8)))
    at = data.index(b"\xff\xda") + 40
    assert reason(data[:at] + b"\xff\xd9" + bytes(30) + data[at + 32 :]).startswith("damaged ")
