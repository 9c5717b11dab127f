"""What a DICOM's numbers mean, against arithmetic by hand and pydicom's: modality LUT, VOI, MONOCHROME1, padding."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from shards.decoding.decoded import RejectedImage
from shards.renditions.options import RenditionOptions, Size
from shards.renditions.rendition import renditions
from shards.renditions.source import NOT_INVERTED, OWN_WINDOW, decode
from tests.dicom_files import dataset, dicom, written
from tests.image_files import png_file
from tests.releases import smooth_image

GRAY = smooth_image(np.random.default_rng(0), 70, 61)
DEEP = GRAY.astype(np.uint16) * 16 + np.random.default_rng(1).integers(0, 16, GRAY.shape, dtype=np.uint16)
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


def shown(pixels, window="dicom", bits=12, inverted=False, **elements):
    return decode(dicom(pixels, bits, **elements), 32, "a.dcm", window, inverted)


def rounded(share):
    """0 to 1 as 8 bits, halves up."""
    return np.floor(np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)


def between(values, low, high):
    return rounded((values.astype(float) - low) / (high - low))


def percentile(values):
    return between(values, *np.percentile(values, [0.5, 99.5]))


def table(values, bits, first=0, words=True):
    """An item of a sequence of lookup tables."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values) % 65536, first, bits])
    if words:
        item.add_new("LUTData", "OW", np.asarray(values, "<u2").tobytes())
    else:
        item.add_new("LUTData", "OW", np.asarray(values, np.uint8).tobytes())
    return [item]


def by_pydicom(made):
    """The pixels that it shows, 0 to 1, of one whose own window it can apply."""
    values = apply_modality_lut(made.pixel_array, made)
    found = apply_voi_lut(values, made).astype(float)
    ends = apply_voi_lut(np.array([-1e30, 1e30]), made) if "VOILUTSequence" not in made else (0, 255)
    return (found - ends[0]) / (ends[1] - ends[0])


# ---------------------------------------------------------------- as PNGs of 16 bits


@pytest.mark.parametrize("window", ["percentile", "minmax", "dicom"])
@pytest.mark.parametrize("inverted", [False, True])
def test_12_bits_pack_as_their_16_bit_png_does(window, inverted):
    """MONOCHROME1 too: the file says it here, the release's table there. Every byte of every size."""
    options = RenditionOptions((Size(32), Size(48, raw=True)), window=window)
    said = "MONOCHROME1" if inverted else "MONOCHROME2"
    made, found = renditions(dicom(DEEP, 12, PhotometricInterpretation=said), "a.dcm", options)
    expected, other = renditions(png_file(DEEP.astype(int), 16, 0), "a.png", options, inverted)
    assert made == expected and found.pixels == other.pixels and found.converted == other.converted
    assert found.converted == ("16-bit", "MONOCHROME1")[: 1 + inverted]


def test_under_full_few_bits_are_refused_as_of_a_png_and_14_are_taken():
    with pytest.raises(RejectedImage, match="^nearly black under --window full, .*: a 16-bit image that uses 12 bits$"):
        shown(DEEP, "full")
    assert np.array_equal(shown(DEEP << 2, "full", 14).gray, between(DEEP << 2, 0, 65535))


def test_a_window_of_the_file_counts_only_where_it_is_asked_for():
    elements = {"WindowCenter": 2000, "WindowWidth": 1001}
    assert np.array_equal(shown(DEEP, "percentile", **elements).gray, percentile(DEEP))
    found = shown(DEEP, **elements)
    assert np.array_equal(found.gray, between(DEEP, 1499.5, 2499.5)) and found.converted == ("16-bit", OWN_WINDOW)


# ---------------------------------------------------------------- windows


def test_a_linear_window_by_hand():
    pixels = np.tile(np.array([[0, 1, 2, 3, 4, 5, 6, 7]], np.uint16), (32, 8))
    found = shown(pixels, WindowCenter=4, WindowWidth=5)  # PS3.3 C.11.2.1.2.1: 1.5 is black, 5.5 white
    assert found.gray[0, :8].tolist() == [0, 0, 32, 96, 159, 223, 255, 255]
    found = shown(pixels, WindowCenter=4, WindowWidth=4, VOILUTFunction="LINEAR_EXACT")  # 2 is black, 6 white
    assert found.gray[0, :8].tolist() == [0, 0, 0, 64, 128, 191, 255, 255]
    found = shown(pixels, WindowCenter=4, WindowWidth=4, VOILUTFunction="SIGMOID")  # 1 / (1 + exp(4 - x))
    assert found.gray[0, :8].tolist() == [5, 12, 30, 69, 128, 186, 225, 243]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 2000, "WindowWidth": 1500},
        {"WindowCenter": [2000, 100], "WindowWidth": [1500, 20]},
        {"WindowCenter": "2000.5", "WindowWidth": "1499.25", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 6000, "WindowWidth": 4000, "RescaleSlope": 3, "RescaleIntercept": -100},
        {"WindowCenter": -500, "WindowWidth": 900, "RescaleSlope": "0.5", "RescaleIntercept": -1500},
    ],
    ids=str,
)
def test_windows_are_pydicoms(elements, syntax):
    made = dataset(DEEP, 12, syntax, **elements)
    found = decode(written(made), 32, window="dicom")
    assert OWN_WINDOW in found.converted and np.abs(found.gray - by_pydicom(made) * 255).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_lookup_tables_are_pydicoms(syntax):
    rng = np.random.default_rng(0)
    for first, entries in ((0, 4096), (1000, 2000), (3000, 65536)):
        values = np.sort(rng.integers(0, 65536, entries))
        if syntax == ExplicitVRBigEndian:
            values = values.astype("<u2").byteswap().astype(int)  # so that the file holds it in its own order
        made = dataset(DEEP, 12, syntax, ModalityLUTSequence=table(values, 16, first))
        expected = apply_modality_lut(DEEP.astype(np.int64), made) if syntax != ExplicitVRBigEndian else None
        meant = np.sort(values.astype("<u2").byteswap()) if syntax == ExplicitVRBigEndian else values
        by_hand = meant[(DEEP.astype(int) - first).clip(0, entries - 1)]
        assert expected is None or np.array_equal(expected, by_hand)
        found = decode(written(made), 32)
        assert np.array_equal(found.gray, percentile(by_hand))


@pytest.mark.parametrize("words", [True, False])
def test_a_voi_lut_goes_before_a_window(words):
    shades = (255 * np.linspace(0, 1, 3000) ** 2).round().astype(int)
    made = dataset(DEEP, 12, VOILUTSequence=table(shades, 8, 500, words), WindowCenter=7, WindowWidth=3)
    expected = shades[(DEEP.astype(int) - 500).clip(0, 2999)]
    found = decode(written(made), 32, window="dicom")
    assert np.array_equal(found.gray, expected) and OWN_WINDOW in found.converted


def test_a_voi_lut_of_signed_values_begins_below_zero():
    pixels = DEEP.astype(np.int16) - 2048
    shades = np.linspace(0, 4095, 4096).astype(int)
    found = shown(pixels, VOILUTSequence=table(shades, 12, -2048))
    assert np.array_equal(found.gray, between(DEEP, 0, 4095))


def test_a_slope_below_zero_turns_the_image():
    found = shown(DEEP, "percentile", RescaleSlope=-1, RescaleIntercept=4095)
    assert np.array_equal(found.gray, percentile(4095 - DEEP.astype(int)))
    found = shown(GRAY, "percentile", 8, RescaleSlope=-2, RescaleIntercept=600)
    assert np.array_equal(found.gray, percentile(600 - 2 * GRAY.astype(int)))


NO_USE = {
    "far off": {"WindowCenter": 9000, "WindowWidth": 100},
    "a sliver": {"WindowCenter": 2000, "WindowWidth": 2},
    "no width": {"WindowCenter": 2000, "WindowWidth": 0},
    "below zero": {"WindowCenter": 2000, "WindowWidth": -5, "VOILUTFunction": "LINEAR_EXACT"},
    "only a centre": {"WindowCenter": 2000},
    "empty": {"WindowCenter": "", "WindowWidth": ""},
    "another function": {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "CUBIC"},
    "a short table": {"VOILUTSequence": table(range(100), 12)},
    "an empty table": {"VOILUTSequence": [Dataset()]},
}


@pytest.mark.parametrize("name", NO_USE)
def test_a_window_that_is_of_no_use_gives_way_to_the_percentiles(name):
    if name == "a short table":
        NO_USE[name]["VOILUTSequence"][0].LUTDescriptor = [4096, 0, 12]
    found = shown(DEEP, **NO_USE[name])
    assert np.array_equal(found.gray, percentile(DEEP)) and found.converted == ("16-bit",)


def test_a_window_that_is_no_number_is_of_no_use():
    data = dicom(DEEP, 12, WindowCenter=2000, WindowWidth=1000)
    broken = data.replace(b"2000", b"2O0O")
    assert broken != data
    assert np.array_equal(decode(broken, 32, window="dicom").gray, percentile(DEEP))


# ---------------------------------------------------------------- MONOCHROME1


def test_monochrome1_is_inverted_once_and_after_the_window():
    elements = {"WindowCenter": 2000, "WindowWidth": 1500, "PresentationLUTShape": "INVERSE"}
    plain = shown(DEEP, **elements)
    found = shown(DEEP, PhotometricInterpretation="MONOCHROME1", **elements)
    assert np.array_equal(found.gray, 255 - plain.gray) and "MONOCHROME1" in found.converted


@pytest.mark.parametrize("said", [False, True])
def test_a_table_that_contradicts_the_file_is_not_believed_and_counted(said):
    found = shown(GRAY, bits=8, inverted=said)
    assert np.array_equal(found.gray, GRAY) and found.converted == ((NOT_INVERTED,) if said else ())
    found = shown(GRAY, bits=8, inverted=said, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(found.gray, 255 - GRAY) and found.converted == ("MONOCHROME1",)


# ---------------------------------------------------------------- padding


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
@pytest.mark.parametrize("limit", [None, 4090])
def test_padding_is_black_and_counts_for_no_window(photometric, syntax, limit):
    pixels = DEEP.clip(0, 4000)
    pixels[:, :20] = 4095
    pixels[:, 20:25] = 4093
    elements = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    data = dicom(pixels, 12, syntax, PixelPaddingValue=4095, PhotometricInterpretation=photometric, **elements)
    padding = pixels >= (4095 if limit is None else limit)
    expected = between(pixels, *np.percentile(pixels[~padding], [0.5, 99.5]))
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    expected[padding] = 0
    assert np.array_equal(decode(data, 32).gray, expected)


def test_signed_padding():
    pixels = DEEP.astype(np.int16) - 2000
    pixels[:9] = -2048
    expected = between(pixels, *np.percentile(pixels[9:], [0.5, 99.5]))
    expected[:9] = 0
    assert np.array_equal(shown(pixels, "percentile", 16, PixelPaddingValue=-2048).gray, expected)


def test_8_bit_padding_of_an_inverted_image_is_black():
    pixels = GRAY.clip(1, 255)
    pixels[:9] = 0
    found = shown(pixels, "percentile", 8, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")
    assert not found.gray[:9].any() and np.array_equal(found.gray[9:], 255 - pixels[9:])


def test_an_image_of_padding_alone_is_no_image():
    with pytest.raises(RejectedImage, match="^no pixels: all are padding$"):
        shown(np.full((40, 40), 7, np.uint16), "percentile", PixelPaddingValue=7)


def test_every_value_of_16_bits_against_pydicom_at_once():
    """One pixel for each number that there is, with a slope, a window and a sign."""
    pixels = np.arange(65536, dtype=np.uint16).view(np.int16).reshape(256, 256)
    elements = {"RescaleSlope": "1.5", "RescaleIntercept": "-77.25", "WindowCenter": 3000, "WindowWidth": 60000}
    made = dataset(pixels, 16, **elements)
    found = decode(written(made), 32, window="dicom")
    assert np.abs(found.gray - by_pydicom(made) * 255).max() <= 0.5 + 1e-6
    made = dataset(pixels, 16, **elements)
    values = pixels * 1.5 - 77.25
    assert np.array_equal(found.gray, between(values, 3000 - 0.5 - 59999 / 2, 3000 - 0.5 + 59999 / 2))
    assert pydicom.dcmread(pydicom.filebase.DicomBytesIO(written(made))).BitsStored == 16
