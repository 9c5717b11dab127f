"""Augmentation: one file for each, found by itself; a new one touches no other file.

Decisions are made here for a whole batch, from a counter-based stream at the samples' positions. On the CPU they are
carried out in the copy by which a batch leaves DALI's memory, on a GPU by DALI (`cxrdali.data.pipeline`).
"""

import pkgutil
from collections.abc import Iterable
from importlib import import_module

import numpy as np

from cxrdali.data.augment.augmentation import AUGMENTATIONS, Augmentation, Decisions, augmentation, in_order

for _found in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")

from cxrdali.data.augment.cutout import CUTOUTS, SQUARES  # noqa: E402
from cxrdali.data.augment.options import FLIPS, AugmentOptions, options_of  # noqa: E402

__all__ = [
    "AUGMENTATIONS", "CUTOUTS", "FLIPS", "SQUARES", "AugmentOptions", "Augmentation", "Decisions", "augmentation",
    "carry_out", "decide", "in_order", "options_of",
]  # fmt: skip


def decide(augment: Iterable[Augmentation], seed: int, epoch: int, start: int, count: int, size: int) -> Decisions:
    """The decisions for positions [start, start + count) of an epoch, by the names in `Augmentation.decides`.

    Returns: arrays [count, ...]; see the `decide` of each augmentation. size: side of the images in pixels.
    """
    made: Decisions = {}
    for each in augment:
        made |= each.decide(seed, epoch, start, count, size)
    return made


def carry_out(augment: Iterable[Augmentation], images: np.ndarray, made: Decisions, out: np.ndarray) -> None:
    """Copy `images` to `out`, both uint8 [B, S, S, 1], with the decisions carried out.

    On the CPU a batch is copied once in any case, when it leaves DALI's memory. Augmenting image by image on the way
    finds each in the processor's cache; DALI's erase and flip would write the whole batch twice more.
    """
    size = images.shape[1]
    work = [(each, each.steps(made, size)) for each in in_order(augment)]
    for place in range(len(images)):
        image, target = images[place], out[place]
        for each, steps in work:
            if steps[place] is not None:
                each.apply(image, steps[place], target)
                image = target
        if image is not target:
            target[...] = image
