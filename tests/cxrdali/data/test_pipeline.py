"""DALI's own cutout and flips, which carry out the augmentation on a GPU: the same operators run here on the CPU."""

import numpy as np
import pytest

from cxrdali.data import pipeline
from cxrdali.data.augment import AugmentOptions, carry_out, decide, in_order
from shards.dataset.mapped import MappedSize
from tests.cxrdali.data.test_loader import JPEG, RAW, stored_image
from tests.cxrdali.reference import augmented


@pytest.mark.parametrize("size", [JPEG, RAW])
@pytest.mark.parametrize(
    ("cutout", "side"), [("fixed", 0.15), ("published", 0.15), ("published", 0.03), ("random", 0.15), ("off", 0.15)]
)
def test_dali_s_operators_carry_out_the_decisions_pixel_for_pixel(dataset, size, cutout, side):
    mapped, count = MappedSize(dataset.stored(size)), 40
    augment = in_order(AugmentOptions(cutout=cutout, side=side))
    made = decide(augment, 3, 1, 0, count, size)
    data = [mapped.pixels([row])[0] if mapped.stored.raw else mapped[row] for row in range(count)]
    batch = (data, *(list(made[name]) for name in pipeline.decisions_for(augment)))
    spec = pipeline.PipelineSpec(size, mapped.stored.raw, size, count, 2, None, "cpu", augment=augment)
    (output,) = pipeline.build(spec, lambda: batch).run()
    images = np.asarray(output.as_tensor())
    for place in range(count):
        expected = augmented(stored_image(dataset, size, place), made, place)
        assert (images[place, :, :, 0] == expected).all()


def test_carrying_out_leaves_its_input_alone():
    images = np.random.default_rng(0).integers(1, 256, (50, 32, 32, 1), dtype=np.uint8)
    augment = AugmentOptions(side=0.2)
    made, before, out = decide(augment, 0, 0, 0, 50, 32), images.copy(), np.empty_like(images)
    carry_out(augment, images, made, out)
    assert (images == before).all()
    for place in range(50):
        assert (out[place, :, :, 0] == augmented(images[place, :, :, 0], made, place)).all()
