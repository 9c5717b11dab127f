import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrdali.data import augment, gpu
from cxrdali.data.augment import AUGMENTATIONS, AugmentOptions, decide, in_order, options_of
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from shards.errors import UserError
from tests.cxrdali.reference import augmented

CPU = torch.device("cpu")


def squares(decisions):
    """[B, 5, (top, left, height, width)]"""
    count = len(decisions["anchor"])
    return np.concatenate([decisions["anchor"].reshape(count, 5, 2), decisions["shape"].reshape(count, 5, 2)], axis=2)


def same(one, two) -> bool:
    return one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


def part(decisions, start, stop):
    return {name: made[start:stop] for name, made in decisions.items()}


@pytest.mark.parametrize("cutout", ["fixed", "published", "random", "off"])
def test_decisions_belong_to_positions_not_to_batches(cutout):
    options = AugmentOptions(cutout=cutout)
    whole = decide(options, seed=7, epoch=3, start=0, count=100, size=224)
    for start, stop in [(0, 1), (1, 8), (37, 91), (99, 100)]:
        assert same(decide(options, 7, 3, start, stop - start, 224), part(whole, start, stop))


def test_seeds_and_epochs_differ():
    one = decide(AugmentOptions(), 0, 0, 0, 200, 224)
    assert not same(one, decide(AugmentOptions(), 0, 1, 0, 200, 224))
    assert not same(one, decide(AugmentOptions(), 1, 0, 0, 200, 224))
    assert same(one, decide(AugmentOptions(), 0, 0, 0, 200, 224))


def test_each_happens_to_half_of_the_images_independently():
    made = decide(AugmentOptions(), 0, 0, 0, 20_000, 224)
    cut = (made["shape"] > 0).any(axis=1)
    events = np.stack([made["horizontal"], made["vertical"], cut])
    assert np.abs(events.mean(axis=1) - 0.5).max() < 0.015  # four standard errors
    assert np.abs(np.corrcoef(events) - np.eye(3)).max() < 0.03


def test_fixed_cutout_is_five_squares_of_five_percent_clipped_at_the_border():
    boxes = squares(decide(AugmentOptions(cutout_probability=1), 0, 0, 0, 5000, 224))
    top, left, height, width = np.moveaxis(boxes, 2, 0)
    assert height.max() == width.max() == 11  # int(0.05 * 224)
    inside = (top > 0) & (left > 0) & (top + height < 224) & (left + width < 224)
    assert (height[inside] == 11).all() and (width[inside] == 11).all()
    assert (top + height <= 224).all() and (left + width <= 224).all() and boxes.min() >= 0
    # a centre at the very border leaves half a square: 11 - 11 // 2 = 6 below, 5 + 1 above
    assert height.min() >= 5 and (height < 11).any()


def test_published_cutout_places_its_squares_as_albumentations_did():
    """By its rule of 2023, here for every centre along an axis: 0.973 of the squares are whole, ours 0.955."""
    size, side = 224, 11
    centre = np.arange(size + 1)
    low = np.maximum(centre - side // 2, 0)
    rule = np.minimum(low + side, size) - low
    made = {}
    for kind in ("published", "fixed"):
        boxes = squares(decide(AugmentOptions(cutout=kind, cutout_probability=1), 0, 0, 0, 20_000, size))
        assert (boxes[..., :2] + boxes[..., 2:]).max() == size and boxes.min() >= 0
        made[kind] = boxes[..., 2:]
        at_start = boxes[..., 2:][boxes[..., :2] == 0]
        assert (at_start == side).all() == (kind == "published")
    whole = {kind: (lengths == side).mean() for kind, lengths in made.items()}
    assert (rule == side).mean() == pytest.approx(219 / 225)
    assert [*whole.values()] == pytest.approx([219 / 225, 214 / 224], abs=0.002)
    counts = [np.bincount(lengths.astype(int).ravel(), minlength=side + 1) for lengths in (made["published"], rule)]
    assert np.abs(counts[0] / counts[0].sum() - counts[1] / counts[1].sum()).max() < 0.002
    means = [made[kind].mean() / side for kind in made]
    assert means == pytest.approx([0.9915, 0.9878], abs=0.001)


def test_sides_are_whole_pixels_rounded_down():
    """5 % of 512 is 25.6: albumentations, which the stage-training paper used, takes 25."""
    for pixels, side in ((224, 11), (320, 16), (384, 19), (512, 25)):
        assert decide(AugmentOptions(cutout_probability=1), 0, 0, 0, 500, pixels)["shape"].max() == side


def test_order_and_augmentation_do_not_share_their_random_numbers():
    from cxrdali.data.order import AUGMENT, ROWS, stream
    from shards.randomness import raw_words

    assert not (raw_words(0, stream(ROWS, 3), 0, 40) == raw_words(0, stream(AUGMENT, 3), 0, 40)).any()


def test_centres_are_uniform_over_the_image():
    boxes = squares(decide(AugmentOptions(cutout_probability=1), 0, 0, 0, 5000, 100))
    inner = boxes[..., :2][(boxes[..., 2:] == 5).all(axis=-1)]
    counts = np.histogram(inner, bins=9, range=(1, 91))[0]
    assert counts.min() > 0.9 * counts.mean()


def test_random_cutout_draws_one_to_five_squares_of_up_to_five_percent():
    boxes = squares(decide(AugmentOptions(cutout="random", cutout_probability=1), 0, 0, 0, 5000, 224))
    count = (boxes[..., 2] > 0).sum(axis=1)
    assert set(count) == {1, 2, 3, 4, 5}
    assert np.bincount(count)[1:].min() > 850  # a fifth of 5,000 each
    assert boxes[..., 2:].max() == 11
    assert (np.bincount(boxes[..., 2][boxes[..., 2] > 0].astype(int))[1:] > 0).all()


def test_off_draws_none_and_zero_probabilities_do_nothing():
    assert decide(AugmentOptions(cutout="off"), 0, 0, 0, 100, 224)["shape"].max() == 0
    made = decide(AugmentOptions(hflip=0, vflip=0, cutout_probability=0), 0, 0, 0, 100, 224)
    assert made["horizontal"].max() == made["vertical"].max() == made["shape"].max() == 0


def test_bad_options_are_named():
    with pytest.raises(UserError, match="cutout 'none': choose one of fixed, published, random, off"):
        AugmentOptions(cutout="none")
    with pytest.raises(UserError, match="hflip 1.5: 0 to 1"):
        AugmentOptions(hflip=1.5)


# ---------------------------------------------------------------- an augmentation is a file of its own


NEGATIVE = '''
from dataclasses import dataclass

import numpy as np

from cxrdali.data.augment.augmentation import Augmentation, own_numbers


@dataclass(frozen=True)
class Negative(Augmentation):
    """probability: of showing an image as its negative."""

    order = 15
    decides = {"negative": np.int32}

    probability: float = 0.5

    def decide(self, seed, epoch, start, count, size):
        numbers = own_numbers("negative", 4, seed, epoch, start, count)
        return {"negative": (numbers[:, 0] < self.probability).astype(np.int32)}

    def steps(self, decided, size):
        return [True if each else None for each in decided["negative"].tolist()]

    def apply(self, image, step, out):
        np.subtract(255, image, out=out)

    def on_device(self, images, decided):
        return (255 - images).where(decided["negative"].bool()[:, None, None, None], images)
'''


def test_files_are_found_by_themselves():
    files = {path.stem for path in Path(augment.__file__).parent.glob("*.py")}
    parts = {"__init__", "augmentation", "lookup", "mirrored", "presets", "warp", "written"}
    assert set(AUGMENTATIONS) == files - parts > {"affine", "cutout", "flips"}
    with pytest.raises(UserError, match="augmentation 'mixup': choose one of affine, blur, .*, squares"):
        options_of("both", "fixed", ("mixup",))
    with pytest.raises(UserError, match="augment flips: has a setting of its own; give --flips"):
        options_of("both", "fixed", ("flips",))
    assert options_of("both", "random") == AugmentOptions(cutout="random")


@pytest.mark.parametrize("size", [48, 56])  # JPEG, raw
def test_one_from_a_file_elsewhere_is_applied_between_the_others_in_either_way(dataset, tmp_path, monkeypatch, size):
    (tmp_path / "negative.py").write_text(NEGATIVE)
    monkeypatch.syspath_prepend(tmp_path)
    negative = importlib.import_module("negative").Negative(probability=0.5)
    wanted = in_order([*AugmentOptions(side=0.15), negative])
    assert [type(each).__name__ for each in wanted] == ["Cutout", "Negative", "Flips"]
    rows = np.arange(48)
    (plain,) = Loader(dataset, rows, LoaderOptions(size, 48))
    (batch,) = Loader(dataset, rows, LoaderOptions(size, 48), augment=wanted)
    made = decide(wanted, 0, 0, 0, 48, size)
    assert 10 < made["negative"].sum() < 38
    assert same({**made}, {**decide(AugmentOptions(side=0.15), 0, 0, 0, 48, size), "negative": made["negative"]})
    expected = []
    for place, image in enumerate(plain.images.numpy()[:, 0]):
        cut = augmented(image, {**made, "horizontal": np.zeros(48), "vertical": np.zeros(48)}, place)
        cut = 255 - cut if made["negative"][place] else cut
        expected.append(augmented(cut, {**made, "shape": np.zeros((48, 10))}, place))
    assert (batch.images.numpy()[:, 0] == expected).all()
    assert (gpu.augmented(plain.images, wanted, made, CPU).numpy()[:, 0] == expected).all()


def test_one_that_runs_on_the_cpu_only_says_so(tmp_path, monkeypatch):
    half = NEGATIVE.replace("on_device", "elsewhere").replace("class Negative", "class Half")
    (tmp_path / "half.py").write_text(half.replace("    order", '    name = "half"\n    order'))
    monkeypatch.syspath_prepend(tmp_path)
    half = importlib.import_module("half").Half()
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match="augmentation half: has no on_device, so it runs on the CPU only"):
        gpu.augmented(images, [half], decide([half], 0, 0, 0, 4, 8), CPU)
