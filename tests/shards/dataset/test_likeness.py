"""Signatures of images, and pairs of them that are near, against scipy and plain Python."""

import cv2
import numpy as np
import pytest
from scipy.fft import dctn
from scipy.stats import rankdata

from shards.dataset import likeness
from shards.dataset.likeness import BITS, HASH, NEAREST, WHOLE, WORDS, Signatures, candidates, framed, signature
from shards.dataset.twins import agreement, is_same


def film(seed: int, side: int = 128) -> np.ndarray:
    """Smooth shapes and some grain: uint8 [side, side]."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.normal(size=(9, 9)), (side, side), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(rng.normal(size=(40, 40)), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(120 + 45 * coarse + 12 * fine, 10, 245).astype(np.uint8)


def bits(words: np.ndarray) -> int:
    """All bits of a signature as one number."""
    return int.from_bytes(b"".join(int(word).to_bytes(8, "little") for word in words))


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return (bits(one) ^ bits(other)).bit_count()


def drawn(n: int, seed: int, near: np.ndarray | None = None, flips: int = 0) -> Signatures:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**64, (n, WORDS), dtype=np.uint64)
    if near is not None:
        for place, word in enumerate(near):
            words[place] = word
            for bit in rng.choice(BITS, flips, replace=False):
                words[place, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return Signatures(np.arange(n) * 3, np.zeros(n, dtype=bool), words)


def test_a_signature_is_the_signs_of_the_lowest_frequencies_of_ranks():
    image = film(1)
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    spectrum = dctn((rankdata(small).reshape(32, 32) - 0.5) / small.size - 0.5, norm="ortho")
    places = sorted((i * i + j * j, i, j) for i in range(32) for j in range(32))[1 : BITS + 1]
    wanted = [spectrum[i, j] > 0 for _, i, j in places]
    found = bits(signature(image))
    assert [bool(found >> (BITS - 1 - place) & 1) for place in range(BITS)] == wanted


def test_what_no_gray_curve_changes_it_does_not_change():
    image = film(2)
    curve = np.linspace(0, 255, 256) ** 1.5 / 255**0.5
    assert distance(signature(image), signature(curve[image].astype(np.uint8))) <= 6
    assert distance(signature(image), signature(255 - image)) >= BITS - 3
    assert distance(signature(image), signature(film(3))) > WHOLE


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_nothing_has_none(value):
    image = np.full((64, 64), value, dtype=np.uint8)
    image[3, 4] ^= 1
    assert signature(image) is None


def test_a_border_is_cut_where_there_is_one():
    image = film(4)
    assert framed(image) is None and framed(np.zeros((64, 64), dtype=np.uint8)) is None
    boxed = cv2.copyMakeBorder(image, 0, 0, 30, 20, cv2.BORDER_CONSTANT, value=3)
    np.testing.assert_array_equal(framed(boxed), image)


def test_candidates_are_those_of_plain_loops(monkeypatch):
    monkeypatch.setattr(likeness, "_ROWS", 16)  # more blocks than one, and pairs that are pending
    monkeypatch.setattr(likeness, "_PENDING", 4)
    a = drawn(50, 1)
    b = drawn(100, 2, near=a.words[:40], flips=30)
    b.words[:10] = ~b.words[:10]  # negatives
    b.words[60:75] = a.words[45]  # more copies than are kept
    counts = []
    found = candidates(a, b, 2, counts.append)
    wanted = []
    for i, one in enumerate(a.words):
        near = []
        for j, other in enumerate(b.words):
            first = (int(one[0]) ^ int(other[0])).bit_count()
            whole = distance(one, other)
            if min(first, 64 - first) <= HASH and min(whole, BITS - whole) <= WHOLE:
                near.append((3 * i, 3 * j, min(whole, BITS - whole), whole > BITS // 2))
        wanted += sorted(near, key=lambda pair: (pair[2], pair[1]))[:NEAREST]
    rows = zip(found["row_a"], found["row_b"], found["distance"], found["negative"], strict=True)
    assert set(rows) == set(wanted) and len(wanted) >= 40 + NEAREST
    assert found["distance"].is_monotonic_increasing and sum(counts) == 50


def test_without_images_there_are_no_candidates():
    assert not len(candidates(drawn(0, 1), drawn(5, 2), 1, print))
    assert not len(candidates(drawn(5, 1), drawn(0, 2), 1, print))


def test_pictures_agree_whatever_was_done_to_their_grays():
    image = film(5)
    darker = (image * 0.6).astype(np.uint8)
    assert agreement(image, image) == pytest.approx(1, abs=1e-4)
    assert is_same(agreement(image, darker), 128, 20)
    assert agreement(image, 255 - image) < -0.9 and is_same(agreement(image, 255 - image, negative=True), 128, 20)
    assert not is_same(agreement(image, film(6)), 128, 20)


def test_a_picture_moved_and_scaled_agrees_and_a_turned_one_does_not():
    image = film(7)
    cropped = cv2.resize(image[3:, :-3], (128, 128), interpolation=cv2.INTER_AREA)
    assert is_same(agreement(image, cropped), 128, 20)
    turn = cv2.getRotationMatrix2D((64, 64), 4, 1)
    turned = cv2.warpAffine(image, turn, (128, 128), borderMode=cv2.BORDER_REPLICATE)
    assert not is_same(agreement(image, turned), 128, 20)


def test_what_noise_hides_is_the_same_image_where_the_signatures_say_so():
    image = film(5)
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 7, image.shape), 0, 255).astype(np.uint8)
    found, bits_apart = agreement(image, noisy), distance(signature(image), signature(noisy))
    assert 0.80 < found < 0.90 and bits_apart <= 8
    assert is_same(found, 128, bits_apart) and not is_same(found, 128, 9) and not is_same(0.79, 128, 0)


def test_pictures_without_structure_agree_in_nothing():
    flat = np.full((128, 128), 90, dtype=np.uint8)
    assert agreement(flat, flat) == 0
