"""What the passes do to pixels: against SciPy and OpenCV, and exactly where bilinear sampling is exact."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform
from torch.nn import functional as F

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.models.inference import Inference, logits
from cxrdali.models.options import TTAS
from cxrdali.models.tta import TTA, Pass
from cxrdali.runtime.device import Hardware
from shards.errors import UserError
from tests.releases import smooth_image

SIDE = 64


def test_the_options_know_every_name():
    assert tuple(TTA) == TTAS


@pytest.fixture(scope="module")
def noise():
    """uint8 [3, 1, 64, 64], every pixel another value than its neighbours."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, SIDE, SIDE), dtype=np.uint8))


@pytest.fixture(scope="module")
def smooth():
    return torch.from_numpy(smooth_image(np.random.default_rng(1), SIDE, SIDE))[None, None]


def matrix(each: Pass, side: int) -> np.ndarray:
    """float64 [2, 3]: OpenCV's forward matrix of a pass, in pixels, about the image's centre."""
    centre = (side - 1) / 2
    forward = cv2.getRotationMatrix2D((centre, centre), each.degrees, each.scale)
    forward[:, 2] += each.right * side, each.down * side
    return forward


MOVES = [
    Pass(degrees=5), Pass(degrees=-5), Pass(scale=0.9), Pass(scale=1.1), Pass(right=0.025), Pass(down=-0.025),
    Pass(degrees=12, scale=0.8, right=0.1, down=-0.07), Pass(flip=(-1,), degrees=5, down=0.025),
]  # fmt: skip


@pytest.mark.parametrize("each", MOVES)
def test_a_pass_is_the_bilinear_transform_that_scipy_computes_in_float64(noise, each):
    forward = matrix(each, SIDE)
    back = np.linalg.inv(forward[:, :2])
    # SciPy counts rows before columns
    swap = np.array([[0, 1], [1, 0]])
    flipped = noise.numpy()[..., ::-1] if each.flip else noise.numpy()
    moved = each(noise).numpy()
    assert moved.dtype == np.uint8 and moved.shape == noise.shape
    for image, got in zip(flipped[:, 0], moved[:, 0], strict=True):
        expected = affine_transform(
            image.astype(np.float64), swap @ back @ swap, swap @ (-back @ forward[:, 2]), order=1, mode="nearest"
        )
        assert np.abs(got - expected).max() < 0.5 + 1e-2, "rounded, and no more than that"


@pytest.mark.parametrize("each", [move for move in MOVES if not move.flip])
def test_a_pass_goes_the_way_that_opencv_goes(smooth, each):
    expected = cv2.warpAffine(
        smooth[0, 0].numpy(), matrix(each, SIDE), (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    difference = np.abs(each(smooth)[0, 0].numpy().astype(int) - expected)
    assert difference.max() <= 3, "OpenCV samples on a grid of 1/32 of a pixel"
    # the other way round would be seen
    assert np.abs(smooth[0, 0].numpy().astype(int) - expected).max() > 20


def test_no_rotation_and_no_scale_are_the_image_itself(noise):
    assert Pass()(noise) is noise
    assert torch.equal(Pass(degrees=360)(noise), noise), "also where it is sampled"
    assert torch.equal(Pass(flip=(-1,))(noise), noise.flip(-1))


@pytest.mark.parametrize("side", [48, 64, 97, 224])
def test_a_shift_by_whole_pixels_is_exact_and_repeats_the_border(side):
    image = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (2, 1, side, side), dtype=np.uint8))
    moved = Pass(right=3 / side, down=-2 / side)(image)
    assert torch.equal(moved[..., : side - 2, 3:], image[..., 2:, : side - 3])
    assert torch.equal(moved[..., : side - 2, :3], image[..., 2:, :1].expand(-1, -1, -1, 3)), "the left border"
    assert torch.equal(moved[..., -1, 3:], image[..., -1, : side - 3]), "the lower border"


@pytest.mark.parametrize("side", [48, 97])
def test_a_reflected_border_is_numpy_s_symmetric_one(side):
    image = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 1, side, side), dtype=np.uint8))
    moved = Pass(right=3 / side, down=-2 / side, reflected=True)(image)
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 2), (3, 0)), mode="symmetric")
    np.testing.assert_array_equal(moved, padded[..., 2:, :side])
    assert not torch.equal(moved, Pass(right=3 / side, down=-2 / side)(image))


def test_sulake_s_passes_are_those_of_its_code_with_torch():
    """Rotations by grid_sample with reflected borders; a tenth larger, cropped; a tenth smaller, reflected around.

    Of 80 pixels, whose tenth is whole: its resizing rounds to whole pixels.
    """
    side = 80
    smooth = torch.from_numpy(smooth_image(np.random.default_rng(1), side, side))[None, None]
    image = smooth.float()
    passes = TTA["sulake-medium"]
    assert passes[:4] == TTA["sulake-light"] and len(passes) == 6
    assert torch.equal(passes[0](smooth), smooth) and torch.equal(passes[1](smooth), smooth.flip(3))
    for each, degrees in ((passes[2], 5.0), (passes[3], -5.0)):
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        grid = F.affine_grid(torch.tensor([[[cos, -sin, 0], [sin, cos, 0]]]).float(), image.shape, align_corners=False)
        turned = F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        assert (each(smooth).float() - turned).abs().max() <= 0.51
    for each, factor in ((passes[4], 1.1), (passes[5], 0.9)):
        new = int(side * factor)
        scaled = F.interpolate(image, size=(new, new), mode="bilinear", align_corners=False)
        start, before = (new - side) // 2, (side - new) // 2
        after = side - new - before
        cropped = (
            scaled[..., start : start + side, start : start + side]
            if factor > 1
            else F.pad(scaled, (before, after, before, after), mode="reflect")
        )
        difference = (each(smooth).float() - cropped).abs()
        assert difference[..., 5:-5, 5:-5].max() <= 0.51, factor
        # mirrored at the last pixel there, at its outer edge here: one pixel of a smooth image
        assert difference.max() < 30 and difference.mean() < 1, factor


def test_a_quarter_turn_is_exact_and_counter_clockwise(noise):
    np.testing.assert_array_equal(Pass(degrees=90)(noise), np.rot90(noise, axes=(2, 3)))


def test_every_image_of_a_batch_is_moved_alike_and_a_bright_spot_goes_where_it_should():
    images = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.uint8)
    images[0, 0, 40:43, 20:23] = images[1, 0, 10:13, 30:33] = 240
    centre = (SIDE - 1) / 2
    for each in MOVES[:-1]:
        for moved, (row, column) in zip(each(images), [(41, 21), (11, 31)], strict=True):
            weight = moved[0].double().numpy()
            got = (weight * np.mgrid[:SIDE, :SIDE]).sum(axis=(1, 2)) / weight.sum()
            angle, (down, right) = np.deg2rad(each.degrees), (row - centre, column - centre)
            expected = [
                centre + each.scale * (-np.sin(angle) * right + np.cos(angle) * down) + SIDE * each.down,
                centre + each.scale * (np.cos(angle) * right + np.sin(angle) * down) + SIDE * each.right,
            ]
            np.testing.assert_allclose(got, expected, atol=0.15)


def test_the_names_and_their_passes():
    assert {name: len(passes) for name, passes in TTA.items()} == {
        "none": 1, "hflip": 2, "flips": 4, "light": 4, "medium": 10, "sulake-light": 4, "sulake-medium": 6,
    }  # fmt: skip
    assert TTA["light"] == (Pass(), Pass(flip=(-1,)), Pass(degrees=5), Pass(degrees=-5))
    assert TTA["medium"][:4] == TTA["light"]
    assert {each.scale for each in TTA["medium"]} == {0.9, 1, 1.1}
    assert {(each.right, each.down) for each in TTA["medium"]} == {
        (0, 0), (0.025, 0), (-0.025, 0), (0, 0.025), (0, -0.025),
    }  # fmt: skip
    assert all(-2 not in each.flip for name in list(TTA)[3:] for each in TTA[name]), "no heads downwards"
    for passes in TTA.values():
        assert passes[0] == Pass() and len(set(passes)) == len(passes)


@pytest.mark.parametrize("tta", ["light", "medium"])
def test_the_logit_is_that_of_the_mean_probability_over_the_passes(dataset, tta):
    """A model that sees where things are: the mean gray of each quarter, as logits."""
    seen = []

    class Quarters(torch.nn.Module):
        def forward(self, images):
            assert images.dtype == torch.uint8
            seen.append(len(images))
            return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1) / 32 - 4

    rows = np.flatnonzero(dataset.packed)[:20]
    images = torch.cat([batch.images.clone() for batch in Loader(dataset, rows, LoaderOptions(64, 20))])
    loader = Loader(dataset, rows, LoaderOptions(64, 8))
    got = logits(Quarters(), loader, 4, Hardware("cpu", "fp32"), Inference(micro_batch=4, tta=tta))
    assert sum(seen) == len(rows) * len(TTA[tta])
    each = [1 / (1 + np.exp(-Quarters()(one(images)).double().numpy())) for one in TTA[tta]]
    mean = np.mean(each, axis=0)
    np.testing.assert_allclose(got, np.log(mean / (1 - mean)), atol=2e-5)
    plain = logits(Quarters(), loader, 4, Hardware("cpu", "fp32"))
    assert np.abs(got - plain).max() > 0.01


def test_a_pass_that_is_none_is_refused():
    with pytest.raises(UserError, match="scale 0: above 0"):
        Pass(scale=0)
    with pytest.raises(UserError, match=r"flip \(1,\): axes -1 and -2"):
        Pass(flip=(1,))
