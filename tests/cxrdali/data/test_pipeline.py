"""Cutout and flips by either way, NumPy's and torch's, beside the reference; torch's runs on a GPU, too."""

import numpy as np
import pytest
import torch

from cxrdali.data import gpu, pipeline
from cxrdali.data.augment import AugmentOptions, carry_out, decide, in_order
from shards.dataset.mapped import MappedSize
from tests.cxrdali.data.test_loader import JPEG, RAW, stored_image
from tests.cxrdali.reference import augmented

CPU = torch.device("cpu")
KINDS = [("fixed", 0.15), ("published", 0.15), ("published", 0.03), ("random", 0.15), ("off", 0.15), ("fixed", 1.0)]


def images_of(size, count=40):
    return np.random.default_rng(size).integers(1, 256, (count, size, size, 1), dtype=np.uint8)


@pytest.mark.parametrize("size", [1, 7, 32, 57])
@pytest.mark.parametrize(("cutout", "side"), KINDS)
def test_torch_carries_out_the_decisions_pixel_for_pixel(size, cutout, side):
    images, options = images_of(size), AugmentOptions(cutout=cutout, side=side)
    made = decide(options, 3, 1, 0, len(images), size)
    given = torch.from_numpy(images).view(-1, 1, size, size)
    before = given.clone()
    found = gpu.augmented(given, options, made, CPU)
    assert found.dtype == torch.uint8 and found.shape == given.shape and torch.equal(given, before)
    for place, image in enumerate(images[..., 0]):
        assert (found[place, 0].numpy() == augmented(image, made, place)).all()


def test_nothing_to_do_on_the_device_is_no_copy():
    given = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    assert gpu.augmented(given, (), {}, CPU) is given


def test_carrying_out_leaves_its_input_alone():
    images = images_of(32, 50)
    augment = in_order(AugmentOptions(side=0.2))
    made, before, out = decide(augment, 0, 0, 0, 50, 32), images.copy(), np.empty_like(images)
    carry_out(augment, images, made, out)
    assert (images == before).all()
    for place in range(50):
        assert (out[place, :, :, 0] == augmented(images[place, :, :, 0], made, place)).all()


@pytest.mark.parametrize("size", [JPEG, RAW])
def test_dali_s_output_is_handed_over_plain_and_augmented_by_torch(dataset, size):
    """As on a GPU, but for the device."""
    mapped, rows = MappedSize(dataset.stored(size)), np.arange(40)
    stored = mapped.pixels(rows) if mapped.stored.raw else mapped.slices(rows)
    spec = pipeline.PipelineSpec(size, mapped.stored.raw, size, len(rows), 2, None, "cpu")
    (output,) = pipeline.build(spec, lambda: stored).run()
    images = gpu.from_dali(output).view(-1, 1, size, size)
    made = decide(AugmentOptions(side=0.15), 3, 1, 0, len(rows), size)
    found = gpu.augmented(images, AugmentOptions(side=0.15), made, CPU).numpy()
    for row in rows:
        plain = stored_image(dataset, size, row)
        assert (images[row, 0].numpy() == plain).all() and (found[row, 0] == augmented(plain, made, row)).all()
