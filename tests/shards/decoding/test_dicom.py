"""DICOMs of every transfer syntax that there is an encoder for, against the pixels that were written."""

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import simplejpeg
from pydicom.uid import (
    HTJ2K,
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from shards.decoding import jpeg as jpeg_files
from shards.decoding.decoded import RejectedImage
from shards.decoding.dicom import decode
from shards.errors import UserError
from shards.renditions import source
from shards.renditions.options import RenditionOptions, Size
from shards.renditions.rendition import renditions
from tests.dicom_files import ENCODED, LOSSLESS, NATIVE, dataset, dicom, extended, framed, without_preamble, written
from tests.image_files import lossless_jpeg
from tests.releases import jpeg, smooth_image

GRAY = smooth_image(np.random.default_rng(0), 70, 61)
DEEP = GRAY.astype(np.uint16) * 16 + np.random.default_rng(1).integers(0, 16, GRAY.shape, dtype=np.uint16)
COLOUR = np.ascontiguousarray(np.dstack([GRAY, GRAY[::-1], GRAY[:, ::-1]]))  # RGB


def reason(data, name=""):
    with pytest.raises(RejectedImage) as error:
        source.decode(data, 32, name)
    assert "\n" not in str(error.value)
    return str(error.value)


def as_gray(rgb):
    """ITU-R BT.601, in floats."""
    return rgb.astype(float) @ (0.299, 0.587, 0.114)


# ---------------------------------------------------------------- every syntax


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_pixels_of_9_to_16_bits_come_out_as_they_went_in(syntax, bits):
    pixels = DEEP << bits - 12 if bits > 12 else DEEP >> 12 - bits
    found = decode(dicom(pixels, bits, syntax), 32)
    assert np.array_equal(found.gray, pixels) and found.gray.dtype == np.uint16
    assert (found.height, found.width, found.converted, found.alpha) == (70, 61, ("16-bit",), None)
    assert np.array_equal(found.levels.values[pixels], pixels)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
def test_8_bits_are_never_changed_by_a_window(syntax):
    data = dicom(GRAY, 8, syntax)
    for window in ("percentile", "minmax", "full", "dicom"):
        found = source.decode(data, 32, "a.dcm", window)
        assert np.array_equal(found.gray, GRAY) and found.converted == ()


@pytest.mark.parametrize("syntax", [*NATIVE, *ENCODED], ids=lambda uid: uid.name)
def test_signed_pixels_keep_their_sign(syntax):
    pixels = DEEP.astype(np.int16) - 2048
    found = decode(dicom(pixels, 12, syntax), 32)
    assert np.array_equal(found.levels.values[found.gray], pixels)


@pytest.mark.parametrize("odd", [(33, 35), (70, 61)])
def test_an_odd_number_of_bytes_is_padded(odd):
    pixels = GRAY[: odd[0], : odd[1]]
    for syntax in (*NATIVE, *ENCODED):
        data = written(dataset(pixels, 8, syntax)) if syntax in NATIVE else dicom(pixels, 8, syntax)
        assert np.array_equal(source.decode(data, 32).gray, pixels)


def test_8_bits_in_words_of_two_bytes_are_swapped_where_the_file_is_big_endian():
    made = dataset(GRAY[:, :60], 8, ExplicitVRBigEndian)
    made["PixelData"].VR = "OW"
    made.PixelData = GRAY[:, :60].copy().view(np.uint16).byteswap().tobytes()
    assert np.array_equal(source.decode(written(made), 32).gray, GRAY[:, :60])


def test_a_lossy_jpeg_of_12_bits():
    data, pixels = extended(np.random.default_rng(0).integers(0, 4096, (9, 8)))
    found = decode(data, 32)
    assert np.abs(found.gray.astype(int) - pixels).max() <= 1 and found.converted == ("16-bit",)


def test_near_lossless_jpeg_ls_is_near():
    made = dataset(DEEP, 12)
    made.compress(JPEGLSNearLossless, encoding_plugin="pyjpegls", jls_error=3)
    assert np.abs(decode(written(made), 32).gray.astype(int) - DEEP).max() <= 3


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1])
def test_a_frame_may_lie_in_fragments(pieces, syntax):
    whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(dicom(DEEP, 12, syntax)))
    frame = next(pydicom.encaps.generate_frames(whole.PixelData, number_of_frames=1))
    assert np.array_equal(decode(framed(frame, DEEP, 12, syntax, pieces), 32).gray, DEEP)


# ---------------------------------------------------------------- JPEGs of 8 bits


@pytest.mark.parametrize("least", [32, 61, 1000])
def test_an_8_bit_jpeg_takes_the_way_of_a_jpeg_file(least):
    large = smooth_image(np.random.default_rng(0), 700, 610)
    frame = jpeg(large)
    found, expected = decode(framed(frame, large, 8, JPEGBaseline8Bit), least), jpeg_files.decode(frame, least)
    assert np.array_equal(found.gray, expected.gray) and found.gray.shape == expected.gray.shape
    assert (found.height, found.width) == (700, 610) and (least < 1000) == (found.gray.shape[0] < 700)


@pytest.mark.parametrize(
    "elements",
    [
        {"PixelPaddingValue": 3},
        {"RescaleSlope": -1, "RescaleIntercept": 255},
        {"PixelRepresentation": 1},
    ],
)
def test_what_a_mean_of_neighbours_would_change_is_decoded_whole(elements):
    large = smooth_image(np.random.default_rng(0), 700, 610)
    found = decode(framed(jpeg(large), large, 8, JPEGBaseline8Bit, **elements), 32)
    assert found.gray.shape == (700, 610)


def test_the_files_own_window_is_applied_to_the_whole_image():
    large = smooth_image(np.random.default_rng(0), 700, 610)
    data = framed(jpeg(large), large, 8, JPEGBaseline8Bit, WindowCenter=100, WindowWidth=81)
    assert source.decode(data, 32, window="dicom").gray.shape == (700, 610)
    assert source.decode(data, 32).gray.shape < (700, 610)


def test_a_damaged_scan_of_an_8_bit_jpeg_is_told_as_in_a_file():
    frame = jpeg(GRAY)
    assert reason(framed(frame[: len(frame) // 2], GRAY, 8, JPEGBaseline8Bit)).startswith("damaged JPEG: ")


def test_a_lossless_jpeg_of_8_bits():
    for predictor, syntax in ((1, JPEGLosslessSV1), (6, JPEGLossless)):
        frame = lossless_jpeg(GRAY, predictor=predictor)
        assert np.array_equal(source.decode(framed(frame, GRAY, 8, syntax), 32).gray, GRAY)


# ---------------------------------------------------------------- which bits are the value


def test_a_missing_high_bit_is_the_last_of_the_stored():
    assert np.array_equal(decode(dicom(DEEP, 12, HighBit=None), 32).gray, DEEP)


@pytest.mark.parametrize("signed", [False, True])
def test_an_overlay_in_unused_bits_is_not_image(signed):
    overlay = np.random.default_rng(2).integers(0, 16, DEEP.shape, dtype=np.uint16) << 12
    kind = np.int16 if signed else np.uint16
    drawn = (DEEP | overlay).view(kind)
    meant = np.where(DEEP > 2047, DEEP.astype(int) - 4096, DEEP) if signed else DEEP
    found = decode(dicom(drawn, 12), 32)
    assert np.array_equal(found.levels.values[found.gray], meant)
    plain = source.decode(dicom(DEEP.view(kind), 12), 32)
    assert np.array_equal(source.decode(dicom(drawn, 12), 32).gray, plain.gray)


def test_values_in_the_upper_bits_are_moved_down():
    found = decode(dicom(DEEP << 4 | 9, 12, HighBit=15), 32)
    assert np.array_equal(found.levels.values[found.gray], DEEP)


# ---------------------------------------------------------------- colours


def test_colours_become_gray_in_every_order_of_their_samples():
    expected = as_gray(COLOUR)
    planes = np.ascontiguousarray(COLOUR.transpose(2, 0, 1)).reshape(70, 61, 3)
    for data in (
        dicom(COLOUR, 8),
        dicom(planes, 8, PlanarConfiguration=1),
        *[dicom(COLOUR, 8, syntax) for syntax in (*NATIVE[1:], *ENCODED)],
    ):
        found = source.decode(data, 32)
        assert found.converted == ("RGB",) and np.abs(found.gray - expected).max() <= 0.51


def test_ybr_is_converted_before_it_becomes_gray():
    ybr = pydicom.pixels.convert_color_space(COLOUR, "RGB", "YBR_FULL")
    found = source.decode(dicom(ybr, 8, PhotometricInterpretation="YBR_FULL"), 32)
    assert found.converted == ("RGB",) and np.abs(found.gray - as_gray(COLOUR)).max() <= 2


def test_colours_of_a_jpeg_are_those_that_its_header_and_its_markers_agree_on():
    frame = simplejpeg.encode_jpeg(COLOUR, 98, "RGB", "444")  # as YCbCr
    found = source.decode(framed(frame, COLOUR, 8, JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422"), 70)
    assert found.converted == ("RGB",) and np.abs(found.gray - as_gray(COLOUR)).mean() < 1
    assert "marked as YCbCr" in reason(framed(frame, COLOUR, 8, JPEGBaseline8Bit))
    lossless = lossless_jpeg(COLOUR)
    found = source.decode(framed(lossless, COLOUR, 8, JPEGLosslessSV1), 32)
    assert np.abs(found.gray - as_gray(COLOUR)).max() <= 0.51
    assert "marked as RGB" in reason(framed(lossless, COLOUR, 8, JPEGLosslessSV1, PhotometricInterpretation="YBR_FULL"))


# ---------------------------------------------------------------- kinds of files


def test_old_files_without_a_preamble_or_without_a_word_on_their_syntax():
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        whole = dicom(DEEP, 12, syntax)
        for data in (without_preamble(whole), without_preamble(whole, meta=False)):
            assert np.array_equal(decode(data, 32).gray, DEEP)


def test_a_name_says_dicom_or_nothing():
    data = dicom(GRAY, 8)
    for name in ("a.dcm", "a.DCM", "a.dicom", "a", "1.2.840.113619.2.5", "IM-0001-0001"):
        assert np.array_equal(source.decode(data, 32, name).gray, GRAY)
    assert reason(data, "a.png") == "wrong magic for its name: named as PNG, holds DICOM"
    assert reason(jpeg(GRAY), "a.dcm") == "wrong magic for its name: named as DICOM, holds JPEG"


NOT_READ = {
    "float": (dataset(DEEP, 12), "no pixels: a DICOM of the kind "),
    "32 bits": (dataset(DEEP, 12, BitsAllocated=32), "not supported: a DICOM of 12 bits in 32"),
    "1 bit": (dataset(GRAY, 8, BitsAllocated=1, BitsStored=1, HighBit=0), "not supported: a DICOM of 1 bits in 1"),
    "7 bits": (dataset(GRAY, 7), "not supported: a DICOM of 7 bits in 8"),
    "frames": (dataset(DEEP, 12, NumberOfFrames=2), "not supported: a DICOM of several frames"),
    "deep colours": (dataset(np.dstack([DEEP] * 3), 12), "not supported: a DICOM that is neither gray nor"),
    "ARGB": (dataset(GRAY, 8, PhotometricInterpretation="ARGB"), "not supported: a DICOM that is neither gray"),
    "small": (dataset(GRAY[:20], 8), "smaller than 32 px: 20 x 61"),
    "huge": (dataset(GRAY, 8, Rows=50_000, Columns=40_000), "larger than 100 megapixels: 50000 x 40000"),
    "no rows": (dataset(GRAY, 8, Rows=None), "damaged DICOM: Rows is missing or no number"),
    "no bits": (dataset(GRAY, 8, BitsStored=None), "damaged DICOM: BitsStored is missing or no number"),
    "high bit": (dataset(DEEP, 12, HighBit=7), "damaged DICOM: bits up to 7 of 16 hold values of 12"),
    "samples": (dataset(GRAY, 8, SamplesPerPixel=3), "damaged DICOM: its samples per pixel"),
    "slope": (dataset(DEEP, 12, RescaleSlope=0, RescaleIntercept=0), "damaged DICOM: a rescale slope of zero"),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_read_is_named(name):
    made, expected = NOT_READ[name]
    if name == "float":
        made.FloatPixelData = made.pop("PixelData").value
    assert reason(written(made)).startswith(expected)


def test_a_transfer_syntax_that_nothing_reads_is_named_and_a_damaged_frame_of_one_that_is_read():
    assert reason(framed(b"\0\0\1\xb3", GRAY, 8, MPEG2MPML)).startswith(
        "not supported: a DICOM of another transfer syn"
    )
    assert reason(framed(b"\xff\x4f\xff\x51" + bytes(99), GRAY, 8, HTJ2K)).startswith("damaged DICOM: its compressed i")


@pytest.mark.parametrize("package", ["pydicom.datadict", "gdcm"])
def test_without_the_extra_the_run_ends_with_what_to_install(monkeypatch, package):
    data = dicom(DEEP, 12, JPEGLosslessSV1)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"^a DICOM is read by (pydicom|gdcm), .*: pip install 'cxrdali\[dicom\]'$"):
        renditions(data, "a.dcm", RenditionOptions((Size(32),)))


# ---------------------------------------------------------------- pydicom's own files

NO_PIXELS = "no pixels"
REFUSED = {  # how the reason begins; all other files are decoded
    **dict.fromkeys(("ExplVR_BigEndNoMeta", "ExplVR_LitEndNoMeta", "UN_sequence", "empty_charset_LEI"), NO_PIXELS),
    **dict.fromkeys(("no_meta", "no_meta_group_length", "priv_SQ", "reportsi", "waveform_ecg", "test-SR"), NO_PIXELS),
    **dict.fromkeys(("rtplan", "rtplan_truncated", "rtstruct", "reportsi_with_empty_number_tags"), NO_PIXELS),
    **dict.fromkeys(("meta_missing_tsyntax", "nested_priv_SQ"), "damaged DICOM: Rows is missing"),
    **dict.fromkeys((f"JPEGLSNearLossless_{each}" for each in ("08", "16")), "smaller than 32 px"),
    **dict.fromkeys(("SC_rgb_small_odd", "SC_rgb_small_odd_big_endian", "SC_rgb_small_odd_jpeg"), "smaller than 32 px"),
    **dict.fromkeys(
        ("SC_rgb_rle_16bit_2frame", "SC_rgb_rle_2frame", "SC_rgb_rle_32bit_2frame"), "not supported: a DICOM of s"
    ),
    **dict.fromkeys(
        ("examples_ybr_color", "rtdose", "rtdose_expb", "rtdose_rle"), "not supported: a DICOM of several f"
    ),
    **dict.fromkeys(("rtdose_1frame", "rtdose_expb_1frame", "rtdose_rle_1frame"), "not supported: a DICOM of 32 bits"),
    **dict.fromkeys(("liver_1frame", "liver_expb_1frame"), "not supported: a DICOM of 1 bits"),
    **dict.fromkeys(
        ("SC_jpeg_no_color_transform", "SC_rgb_jpeg"), "not supported: a DICOM whose JPEG is marked as YCbCr"
    ),
    "examples_palette": "not supported: a DICOM that is neither gray nor",
    "SC_rgb_rle_16bit": "not supported: a DICOM that is neither gray nor",
    "SC_rgb_rle_32bit": "not supported: a DICOM of 32 bits",
    "JPEG2000-embedded-sequence-delimiter": "damaged DICOM: its compressed image is 1024 x 3722445056",  # as made
    "MR_small_padded": "damaged DICOM: 8,320 bytes of pixels, its header says 8,192",
    "MR_truncated": "damaged DICOM: cut off, 8,130 bytes of pixels of 8,192",
    "badVR": "damaged DICOM: NumberOfFrames",
}
UNREAD = ("JPEG-lossy", "JPGExtended")  # lossy JPEGs of 12 bits, which pydicom does not read


def test_pydicoms_own_files_are_what_it_reads_or_are_refused_for_a_reason():
    files = sorted(Path(pydicom.__file__).parent.glob("data/test_files/*.dcm"))
    refused, decoded = {}, 0
    for path in files:
        try:
            found = decode(path.read_bytes(), 0)
        except RejectedImage as error:
            refused[path.stem] = str(error)
            continue
        decoded += 1
        if path.stem in UNREAD:
            assert found.gray.dtype == np.uint16 and found.gray.std() > 10
            continue
        made = pydicom.dcmread(path)
        expected = made.pixel_array
        if made.SamplesPerPixel == 3:  # lossy ones have colours that RGB does not
            assert np.abs(found.gray - as_gray(expected)).mean() < 0.6
        else:
            meant = pydicom.pixels.apply_modality_lut(expected, made)
            assert np.array_equal(found.levels.values[found.gray], meant), path.stem
    assert decoded >= 36 and set(refused) == set(REFUSED)
    assert not {name: said for name, said in refused.items() if not said.startswith(REFUSED[name])}
