"""Each augmentation beside OpenCV, SciPy or NumPy at float64, and on a device beside the CPU."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from cxrdali.data import gpu
from cxrdali.data.augment import AugmentOptions, carry_out, decide, in_order, options_of
from cxrdali.data.augment.noise import normal
from cxrdali.data.augment.presets import PRESETS
from cxrdali.data.augment.written import canonical, read
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.runs.settings import settings_of
from shards.errors import UserError
from tests.cxrdali.data.test_loader import JPEG, RAW, stored_image
from tests.cxrdali.data.test_raw import OnDevice

CPU = torch.device("cpu")
MILD = (*PRESETS["mild"]["augment"], "crop", "gamma", "blur")  # every one, with what it does by itself
EXACT = ("brightness", "gamma", "squares")
ALWAYS = {
    "affine": "affine(p=1, shift=0.2, scale=0.3, degrees=180)",
    "crop": "crop(p=1, least=0.3)",
    "brightness": "brightness(p=1, brightness=0.3, contrast=0.5)",
    "gamma": "gamma(p=1, most=2)",
    "clahe": "clahe(p=1)",
    "clahe of three tiles": "clahe(p=1, clip=5, tiles=3)",
    "noise": "noise(p=1, sigma=0.2)",
    "blur": "blur(p=1, pixels=2)",
    "squares": "squares(p=1, most=3, side=0.4)",
}


def images_of(size, count=8):
    return np.random.default_rng(size).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


def by_cpu(augment, images, made):
    out = np.empty_like(images)
    carry_out(augment, images, made, out)
    return out


def one(text, numbers, size, image):
    """The image uint8 [S, S] of an augmentation that was given these numbers, and its decisions."""
    augment = read(text)
    given = np.zeros((1, augment.words - 1))
    given[0, : len(numbers)] = numbers
    if "warp" in augment.decides:
        matrix = augment.sources(given, size)
        made = {"warped": np.ones(1, np.int32), "warp": matrix[:, :2].reshape(1, 6).astype(np.float32)}
    else:
        made = {augment.name: np.ones(1, np.int32), **augment.how(given, np.ones(1, bool), size)}
    return by_cpu([augment], image[None, :, :, None], made)[0, :, :, 0], made


# ---------------------------------------------------------------- what all of them keep


@pytest.mark.parametrize("name", ALWAYS)
@pytest.mark.parametrize("size", [1, 2, 7, 31, 300])
def test_a_device_gives_what_the_cpu_gives(name, size):
    images, augment = images_of(size), [read(ALWAYS[name])]
    made = decide(augment, 3, 1, 0, len(images), size)
    found = by_cpu(augment, images, made)
    given = torch.from_numpy(images).view(-1, 1, size, size)
    on_device = gpu.augmented(given, augment, made, CPU)
    assert on_device.dtype == torch.uint8 and (given.numpy().reshape(images.shape) == images).all()
    apart = np.abs(on_device.numpy().reshape(images.shape).astype(int) - found)
    assert apart.max() <= (0 if name in EXACT else 1) and (apart > 0).mean() < 0.001
    in_place = images.copy()
    carry_out(augment, in_place, made, in_place)
    assert (in_place == found).all()
    if size == 300:
        assert (found != images).reshape(len(images), -1).any(axis=1).all()


def test_decisions_are_of_positions_and_each_has_its_share():
    augment = options_of("horizontal", "off", MILD)
    whole = decide(augment, 7, 3, 0, 4000, 64)
    for start, stop in ((0, 1), (37, 91), (3999, 4000)):
        part = decide(augment, 7, 3, start, stop - start, 64)
        assert all((part[name] == whole[name][start:stop]).all() for name in whole)
    other = decide(augment, 7, 4, 0, 4000, 64)
    shares = {"clahe": 0.2, "brightness": 0.2, "noise": 0.15, "squares": 0.15, "warped": 1 - 0.6 * 0.5, "blur": 0.5}
    for name, share in shares.items():
        assert whole[name].mean() == pytest.approx(share, abs=0.03) and (whole[name] != other[name]).any()
    pairs = np.corrcoef(np.stack([whole[name] for name in shares] + [whole["horizontal"]]))
    assert np.abs(pairs - np.eye(len(pairs))).max() < 0.06


@pytest.mark.parametrize("size", [JPEG, RAW, 40])  # decoded, copied, resized by DALI
def test_the_loader_gives_the_same_pixels_every_way(dataset, size):
    how = {"seed": 4, "shuffle": True, "augment": options_of("horizontal", "published", MILD), "drop_last": True}
    rows = np.arange(120)
    (whole, order) = (
        torch.cat(each) for each in zip(*Loader(dataset, rows, LoaderOptions(size, 24), **how), strict=True)
    )
    made = decide(how["augment"], 4, 0, 0, 120, size)
    if size != 40:
        plain = np.stack([stored_image(dataset, size, row) for row in order.tolist()])[..., None]
        assert (by_cpu(how["augment"], plain, made)[..., 0] == whole.numpy()[:, 0]).all()
    resumed = Loader(dataset, rows, LoaderOptions(size, 8), **how)
    resumed.load_state_dict({"epoch": 0, "position": 48})
    assert torch.equal(torch.cat([batch.images for batch in resumed]), whole[48:])
    ranks = [Loader(dataset, rows, LoaderOptions(size, 24), rank=rank, world=2, **how) for rank in (0, 1)]
    shared = torch.cat([torch.cat([one.images, two.images]) for one, two in zip(*ranks, strict=True)])
    assert torch.equal(shared, whole)
    windowed = Loader(dataset, rows, LoaderOptions(size, 24, order="windowed", window=2), **how)
    assert len(torch.cat([batch.images for batch in windowed])) == 120
    if size == RAW:  # of JPEGs and resized images DALI wants a GPU for its output
        on_device = torch.cat([batch.images for batch in Loader(dataset, rows, OnDevice(size, 24), **how)])
        # a level that differs before CLAHE moves the levels of its tile
        apart = (on_device.int() - whole.int()).abs()
        assert (apart > 1).float().mean() < 0.001


# ---------------------------------------------------------------- geometry


def test_a_rotation_is_counter_clockwise_about_the_centre_as_opencv_has_it():
    size, image = 65, np.zeros((65, 65), np.uint8)
    image[32, 52] = 255  # right of the centre by 20
    turned, made = one("affine(p=1, degrees=90, scale=0, shift=0)", (1 - 1e-12, 0.5, 0.5, 0.5), size, image)
    assert np.argwhere(turned > 128).tolist() == [[12, 32]]  # above the centre
    matrix = cv2.getRotationMatrix2D((32, 32), 90, 1)
    assert np.allclose(made["warp"][0].reshape(2, 3), cv2.invertAffineTransform(matrix), atol=1e-4)


def test_shift_and_scale_are_of_the_side_and_outside_is_black():
    size, image = 100, np.full((100, 100), 200, np.uint8)
    image[40, 30] = 255
    moved, _ = one("affine(p=1, degrees=0, scale=0, shift=0.1)", (0.5, 0.5, 1 - 1e-12, 0.25), size, image)
    assert moved[35, 40] == 255  # 10 to the right, 5 up
    assert (moved[:, :9] == 0).all() and (moved[96:] == 0).all() and (moved[:94, 11:] >= 200).all()
    larger, made = one("affine(p=1, degrees=0, scale=0.5, shift=0)", (0.5, 1 - 1e-12, 0.5, 0.5), size, image)
    assert np.allclose(made["warp"][0].reshape(2, 3)[:, :2], np.eye(2) / 1.5)
    assert np.argwhere(larger > 220).mean(axis=0) == pytest.approx(
        [1.5 * (40 - 49.5) + 49.5, 1.5 * (30 - 49.5) + 49.5], abs=0.6
    )


@pytest.mark.parametrize("text", ["affine(p=1, shift=0.1, scale=0.2, degrees=30)", "crop(p=1, least=0.4)"])
def test_pixels_are_those_of_scipy(text):
    size, augment = 57, [read(text)]
    images = images_of(size, 6)
    made = decide(augment, 1, 0, 0, 6, size)
    found = by_cpu(augment, images, made)[..., 0]
    for image, matrix, ours in zip(images[..., 0], made["warp"].reshape(-1, 2, 3), found, strict=True):
        swapped = matrix[::-1, [1, 0, 2]].astype(np.float64)  # SciPy counts rows first
        wanted = ndimage.affine_transform(
            image.astype(np.float64), swapped[:, :2], swapped[:, 2], order=1, mode="grid-constant"
        )
        assert np.abs(ours - wanted).max() < 0.51


def test_a_crop_is_a_square_part_whose_corners_become_the_image_s():
    size, image = 64, np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    part, _ = one("crop(p=1, least=0.25, most=0.25)", (0.5, 1 - 1e-9, 0), size, image)  # half a side, at the right
    assert (np.abs(part - np.linspace(4 * 32, 4 * 63, 64)) <= 0.51).all()
    made = decide([read("crop(p=1, least=0.5, most=0.9)")], 0, 0, 0, 3000, size)["warp"].reshape(-1, 2, 3)
    side = made[:, 0, 0] * (size - 1) + 1
    area = (side / size) ** 2
    assert area.min() > 0.4999 and area.max() < 0.9001 and area.mean() == pytest.approx(0.7, abs=0.01)
    first = made[:, :, 2]
    assert first.min() >= 0 and (first + side[:, None]).max() <= size + 1e-4
    assert (first / (size - side[:, None])).mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.02)


def test_crop_and_affine_are_one_pass_and_as_if_the_crop_came_first():
    size, both = 96, [read("affine(p=1, degrees=20)"), read("crop(p=1, least=0.5)")]
    assert [type(each).__name__ for each in in_order([*both, read("clahe")])] == ["Warps", "Clahe"]
    image = cv2.GaussianBlur(images_of(size, 1)[0, :, :, 0], (0, 0), 4)
    images = np.repeat(image[None, :, :, None], 5, axis=0)
    fused = decide(both, 2, 0, 0, 5, size)
    apart = [decide([each], 2, 0, 0, 5, size) for each in both]
    for place in range(5):
        affine, crop = (np.vstack([made["warp"][place].reshape(2, 3), [0, 0, 1]]) for made in apart)
        assert np.allclose(fused["warp"][place].reshape(2, 3), (crop @ affine)[:2], atol=1e-4)
    passes = by_cpu([both[0]], by_cpu([both[1]], images, apart[1]), apart[0])
    inside = slice(30, 66)  # away from what the crop cut off, which one pass still has
    assert np.abs(by_cpu(both, images, fused).astype(int) - passes)[:, inside, inside].max() <= 3


# ---------------------------------------------------------------- gray levels


def test_gray_levels_follow_their_formulas():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found, _ = one("brightness(p=1, brightness=0.2, contrast=0.4)", (0.75, 1 - 1e-12), 16, image)
    assert np.abs(found.ravel() - np.clip(1.2 * np.arange(256) + 0.2 * 255, 0, 255)).max() <= 0.5
    found, _ = one("gamma(p=1, most=2)", (1 - 1e-12,), 16, image)
    assert np.abs(found.ravel() - 255 * (np.arange(256) / 255) ** 2).max() <= 0.5
    found, _ = one("gamma(p=1, most=2)", (0,), 16, image)
    assert np.abs(found.ravel() - 255 * (np.arange(256) / 255) ** 0.5).max() <= 0.5


def test_clahe_is_opencv_s_with_these_tiles_and_evens_out():
    image = images_of(50, 1)[0, :, :, 0] // 8 + 100
    found, _ = one("clahe(p=1, clip=3, tiles=4)", (), 50, image)
    assert (found == cv2.createCLAHE(3, (4, 4)).apply(image)).all()
    assert found.std() > 1.5 * image.std()


def test_noise_is_normal_with_its_deviation_and_no_two_images_share_it():
    values = (normal(100).astype(float) - 128) / 32
    assert values.mean() == pytest.approx(0, abs=0.02) and values.std() == pytest.approx(1, abs=0.02)
    assert (np.abs(values) < 1).mean() == pytest.approx(0.683, abs=0.02)
    images = np.full((40, 100, 100, 1), 128, np.uint8)
    augment = [read("noise(p=1, sigma=0.1)")]
    made = decide(augment, 0, 0, 0, 40, 100)
    added = by_cpu(augment, images, made)[..., 0].astype(int) - 128
    assert added.std(axis=(1, 2)) == pytest.approx(32 * made["noise_factor"], rel=0.05, abs=0.35)
    assert 0.3 < (32 * made["noise_factor"]).mean() / (0.1 * 255) < 0.7
    strong = added[added.std(axis=(1, 2)) > 5].reshape(-1, 100 * 100)
    assert np.abs(np.corrcoef(strong) - np.eye(len(strong))).max() < 0.06


def test_blur_is_scipy_s():
    image = images_of(60, 1)[0, :, :, 0]
    found, made = one("blur(p=1, pixels=2)", (0.5,), 60, image)
    wanted = ndimage.gaussian_filter(image.astype(float), float(made["blur_sigma"][0]), mode="mirror", radius=6)
    assert made["blur_sigma"][0] == pytest.approx(1.1) and np.abs(found - wanted).max() < 0.51


def test_squares_are_black_whole_and_as_many_and_large_as_said():
    made = decide([read("squares(p=1, most=6, side=0.1)")], 0, 0, 0, 4000, 200)["squares_at"].reshape(-1, 6, 4)
    there = made[..., 2] > 0
    assert (np.bincount(there.sum(axis=1), minlength=7)[1:] > 500).all() and there.any(axis=1).all()
    top, left, height, width = made[there].T
    assert (
        (height == width).all()
        and height.min() == 1
        and height.max() == 20
        and height.mean() == pytest.approx(10.5, abs=0.2)
    )
    assert min(top.min(), left.min()) == 0 and (top + height).max() == (left + width).max() == 200
    found, _ = one("squares(p=1, most=1, side=0.1)", (0, 0.9999, 0.5, 0), 100, np.full((100, 100), 7, np.uint8))
    wanted = np.full((100, 100), 7, np.uint8)
    wanted[45:55, :10] = 0
    assert (found == wanted).all()


# ---------------------------------------------------------------- as they are written


def test_written_texts_are_kept_in_one_form_and_mistakes_are_named():
    assert canonical(" affine( degrees=7,p=0.4 ) ") == "affine(degrees=7, p=0.4)" and canonical("clahe()") == "clahe"
    assert read("affine(degrees=7, p=0.4)").parameters == {"p": 0.4, "shift": 0.03, "scale": 0.05, "degrees": 7}
    assert canonical("mine(strength=3)") == "mine(strength=3)"  # of a plugin that is not loaded
    for text, message in {
        "affine(degree=3)": "parameter 'degree': did you mean degrees[?] affine has p, shift, scale, degrees",
        "affine(p=2)": "p 2: 0 to 1",
        "affine(p=0.1, p=0.2)": "write a name, or a name and parameters, as affine",
        "affine(p=0.1": "write a name, or a name and parameters, as affine",
        "clahe(tiles=1.5)": "tiles = 1.5 is of the wrong kind; tiles is a whole number",
        "crop(least=0.9, most=0.5)": "least 0.9: at most the largest area, 0.5",
    }.items():
        with pytest.raises(UserError, match=message):
            canonical(text)
    with pytest.raises(UserError, match="augment clahe: is given 2 times; give it once"):
        options_of("none", "off", ("clahe", "clahe(p=1)"))


def test_a_preset_stands_for_settings_that_are_given_beside_it():
    plain, mild = settings_of(stage=1).data, settings_of(stage=1, augment_preset="mild").data
    assert (plain.flips, plain.cutout, plain.augment, plain.mixup) == ("horizontal", "off", (), 0)
    assert options_of(plain.flips, plain.cutout) == AugmentOptions(hflip=0.5, vflip=0, cutout="off")
    assert (mild.flips, mild.cutout, mild.augment) == ("horizontal", "off", PRESETS["mild"]["augment"])
    assert mild.augment == tuple(map(canonical, mild.augment))
    paper = settings_of({"flips": "none", "mixup": 0.2}, {"augment_preset": "paper"}, stage=1).data
    assert (paper.flips, paper.cutout, paper.mixup) == ("both", "published", 0)  # of a later layer
    chosen = settings_of({"augment_preset": "mild", "flips": "none"}, {"mixup": 0.2}, stage=1)
    assert (chosen.data.flips, chosen.data.mixup, len(chosen.data.augment)) == ("none", 0.2, 5)
    assert chosen.changed(augment_preset="none").data.augment == ()
    assert chosen.difference(settings_of({**chosen.flat(), "augment_preset": None}).as_json()) is None
