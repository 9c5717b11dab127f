"""Images made smaller without DALI: its pixels bit by bit, and near a mean under a triangle in float64."""

import numpy as np
import pytest

from cxrdali.data.pipeline import load
from cxrdali.data.resize import resizer

SIZES = [
    (2, 1), (5, 3), (8, 7), (34, 17), (48, 40), (64, 56), (82, 43), (96, 48), (101, 100), (150, 16), (300, 7),
    (320, 224), (320, 256), (388, 211), (448, 224), (512, 384), (700, 1),
]  # fmt: skip


def dali(images, size):
    pipeline_def, fn, types = load()

    @pipeline_def(batch_size=len(images), num_threads=1, device_id=None)
    def resized():
        given = fn.external_source(source=lambda: [*images], dtype=types.UINT8, batch=True, layout="HWC")
        return fn.resize(given, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)

    pipeline = resized()
    pipeline.build()
    return np.asarray(pipeline.run()[0].as_tensor())[..., 0].copy()


def ours(images, size):
    out = np.full((len(images) + 2, size, size), 77, dtype=np.uint8)
    resize = resizer(images.shape[1], size)
    for image, room in zip(images, out[1:-1], strict=True):
        resize(image[..., 0], room)
    assert (out[[0, -1]] == 77).all()
    return out[1:-1]


@pytest.mark.parametrize(("side", "size"), SIZES)
@pytest.mark.parametrize("step", [1, 4])  # of multiples of 4, many means are halves exactly
def test_pixels_are_dalis(side, size, step):
    images = np.random.default_rng(side).integers(0, 256 // step, (4, side, side, 1), dtype=np.uint8) * np.uint8(step)
    images[0], images[1] = 255, 0
    assert (ours(images, size) == dali(images, size)).all()


@pytest.mark.parametrize(("side", "size"), [(64, 40), (320, 224), (90, 31)])
def test_a_pixel_is_the_mean_under_a_triangle(side, size):
    image = np.random.default_rng(1).integers(0, 256, (side, side, 1), dtype=np.uint8)
    scale = side / size
    centres = (np.arange(size) + 0.5) * scale - 0.5
    places = np.arange(-side, 2 * side)  # the border's pixels go on beyond it
    weights = np.clip(1 - np.abs(places - centres[:, None]) / scale, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    wide = np.pad(image[..., 0].astype(float), side, mode="edge")
    assert np.abs(ours(image[None], size)[0] - weights @ wide @ weights.T).max() < 0.5 + 1e-3
