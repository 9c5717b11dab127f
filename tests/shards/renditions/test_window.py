"""16 bits to 8: the arithmetic of the windows against NumPy's percentiles and by hand."""

import numpy as np
import pytest

from shards.renditions.options import WINDOWS
from shards.renditions.window import bits_in_use, eight_bits


def reference(pixels, low, high):
    """Float64, rounded half up."""
    return np.floor(np.clip((pixels.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 2), (3, 67), (40, 50), (2100, 2050)], ids=str)
@pytest.mark.parametrize("most", [255, 4095, 65535])
def test_percentiles_are_numpys(shape, most):
    pixels = np.random.default_rng(0).integers(0, most + 1, shape, dtype=np.uint16)
    low, high = np.percentile(pixels, [0.5, 99.5])
    found = eight_bits(pixels, "percentile")
    expected = np.clip((pixels - low) / (high - low), 0, 1) * 255
    assert found.dtype == np.uint8 and np.abs(found - expected).max() <= 0.5 + 1e-9


def test_minmax_and_full_by_hand():
    pixels = np.array([[1000, 1001, 1255], [1510, 2020, 1765]], np.uint16)
    assert eight_bits(pixels, "minmax").tolist() == [[0, 0, 64], [128, 255, 191]]  # (p - 1000) / 4
    pixels = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    assert eight_bits(pixels, "full").tolist() == [[0, 0, 1, 1, 128, 255]]


def test_every_value_under_full_is_its_share_of_65535():
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(eight_bits(pixels, "full"), reference(pixels, 0, 65535))
    assert np.array_equal(eight_bits(pixels, "minmax"), eight_bits(pixels, "full"))


def test_a_bright_marker_moves_minmax_and_not_the_percentiles():
    lungs = np.random.default_rng(0).integers(500, 1500, (100, 100)).astype(np.uint16)
    marked = lungs.copy()
    marked[:5, :5] = 65535  # 0.25 % of the pixels
    away = np.s_[5:, 5:]
    assert eight_bits(marked, "minmax")[away].max() < 8
    change = eight_bits(marked, "percentile")[away].astype(int) - eight_bits(lungs, "percentile")[away]
    assert abs(change).max() <= 2 and (eight_bits(marked, "percentile")[:5, :5] == 255).all()


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_an_image_of_one_value_divides_by_nothing(value):
    pixels = np.full((9, 9), value, np.uint16)
    with np.errstate(all="raise"):
        assert {name: int(eight_bits(pixels, name).max()) for name in WINDOWS} == {
            "percentile": 0,
            "minmax": 0,
            "full": value * 255 // 65535,
            "dicom": 0,
        }


def test_percentiles_that_meet_give_way_to_the_whole_range():
    """A black image with a little writing on it: both percentiles are black."""
    pixels = np.zeros((100, 100), np.uint16)
    pixels[0, :4] = (1000, 2000, 3000, 4000)
    assert eight_bits(pixels, "percentile")[0, :5].tolist() == [64, 128, 191, 255, 0]


def test_bits_in_use():
    assert [bits_in_use(np.array([[0, most]], np.uint16)) for most in (0, 1, 1023, 4095, 4096, 65535)] == [
        *(0, 1, 10),
        *(12, 13, 16),
    ]
