"""Measures of pixels, worked by hand, and the ranges that they are put beside."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from cxrdali.predict.likeness import KINDS, SIDE, TURNS, Range, better_turned, pixel_measures, thumbnail
from tests.releases import smooth_image

HALF = np.repeat([[0] * 50 + [255] * 50], 100, axis=0).astype(np.uint8)  # the left half black, the right one white


def test_measures_by_hand():
    found = pixel_measures(HALF, 200, 100, thumbnail(HALF)[None])
    right = {
        "brightness": 0.5, "contrast": 0.5, "border": 0.5, "white": 0.5, "shape": 2.0,
        "detail": 2 * 255 / 100 / 127.5,  # two columns of each row differ from one neighbour by 255
        "resemblance": 1.0, "upright": 1.0, "mirror": 1.0,  # a quarter turn is uncorrelated
    }  # fmt: skip
    assert found == pytest.approx(right, abs=1e-6)
    assert set(found) == set(KINDS) - {"distance"}


def test_a_border_is_what_is_black_all_around():
    image = np.zeros((80, 80), np.uint8)
    image[10:50, 20:60] = 90
    assert pixel_measures(image, 1, 1, thumbnail(HALF)[None])["border"] == pytest.approx(1 - 40 * 40 / 80**2)
    assert pixel_measures(image * 0, 1, 1, thumbnail(HALF)[None])["border"] == 1


@pytest.mark.parametrize("value", [0, 97, 255])
def test_a_uniform_image_resembles_nothing(value):
    found = pixel_measures(np.full((64, 64), value, np.uint8), 1, 1, thumbnail(HALF)[None])
    for name in ("resemblance", "upright", "mirror", "contrast", "detail"):
        assert found[name] == 0
    assert better_turned(np.full((64, 64), value, np.uint8), thumbnail(HALF)[None]) == ""


def test_resemblance_is_the_correlation_with_the_view_that_fits_best():
    rng = np.random.default_rng(0)
    image, other, third = (smooth_image(rng, 96, 96) for _ in range(3))
    small = [cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for each in (image, other, third)]
    right = max(np.corrcoef(small[0].ravel(), each.ravel())[0, 1] for each in small[1:])
    found = pixel_measures(image, 1, 1, np.stack([thumbnail(other), thumbnail(third)]))
    assert found["resemblance"] == pytest.approx(right, abs=1e-5)
    brighter = (image // 2 + 100).astype(np.uint8)
    assert pixel_measures(brighter, 1, 1, thumbnail(image)[None])["resemblance"] > 0.999, "of no brightness"


@pytest.mark.parametrize(("words", "back"), [
    ("as a negative, with black and white exchanged", lambda image: 255 - image),
    ("turned by 90 degrees to the left", lambda image: np.rot90(image, 3)),
    ("turned by 90 degrees to the right", np.rot90),
    ("turned upside down", lambda image: image[::-1, ::-1]),
])  # fmt: skip
def test_what_would_make_it_right_is_found(words, back):
    image = smooth_image(np.random.default_rng(4), 96, 96)
    assert words in TURNS
    assert better_turned(np.ascontiguousarray(back(image)), thumbnail(image)[None]) == words
    assert better_turned(image, thumbnail(image)[None]) == ""


def test_a_mirror_image_differs_the_other_way_round():
    image = smooth_image(np.random.default_rng(4), 96, 96)
    mean = thumbnail(image)[None]
    found = [pixel_measures(np.ascontiguousarray(each), 1, 1, mean)["mirror"] for each in (image, image[:, ::-1])]
    assert found == pytest.approx([1, -1], abs=1e-3)
    sides = [each - each[:, ::-1] for each in (thumbnail(smooth_image(np.random.default_rng(5), 96, 96)), mean[0])]
    right = np.corrcoef(*(each.ravel() for each in sides))[0, 1]
    other = smooth_image(np.random.default_rng(5), 96, 96)
    assert pixel_measures(other, 1, 1, mean)["mirror"] == pytest.approx(right, abs=1e-5)


def test_an_excess_of_one_is_the_end_of_the_range():
    both = replace(KINDS["brightness"], least=0.0)
    known, values = Range(0.5, 0.4, 0.8), np.array([0.5, 0.4, 0.8, 0.2, 1.1])
    assert known.excess(both, values) == pytest.approx([0, 1, 1, 3, 2])
    assert known.excess(replace(both, low=False), values) == pytest.approx([0, -1 / 3, 1, -1, 2])
    assert known.excess(replace(both, high=False), values) == pytest.approx([0, 1, -3, 3, -6])
    narrow = Range(0.0, 0.0, 0.0)  # as the black border of images that have none
    assert narrow.excess(replace(both, least=0.05), np.array([0.1, 0.0])) == pytest.approx([2, 0])


def test_a_range_is_of_the_middle_98_percent():
    found = Range.of(np.arange(101, dtype=np.float64))
    assert (found.middle, found.low, found.high) == (50, 1, 99)
