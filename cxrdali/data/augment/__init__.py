"""Augmentation: one file for each, found by its name; those of the papers, cutout and flips, also by their numbers.

Decisions are made here for a whole batch, from a counter-based stream at the samples' positions. On the CPU they are
carried out where a JPEG was decoded (`cxrdali.data.jpeg`) or in the copy to the output batch (`cxrdali.data.raw`; of
resized images `carry_out`), on a GPU by torch (`cxrdali.data.gpu`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cxrdali.data.augment.augmentation import AUGMENTATIONS, Augmentation, Decisions, Sometimes
from cxrdali.data.augment.cutout import CUTOUTS, SQUARES, Cutout
from cxrdali.data.augment.flips import Flips
from cxrdali.data.augment.warp import fused
from cxrdali.data.augment.written import read
from shards.errors import UserError
from shards.words import choices

__all__ = [
    "AUGMENTATIONS", "CUTOUTS", "FLIPS", "SQUARES", "AugmentOptions", "Augmentation", "Decisions", "Sometimes",
    "carry_out", "decide", "in_order", "options_of",
]  # fmt: skip
FLIPS = ("both", "horizontal", "none")
Images = np.ndarray | Sequence[np.ndarray]


@dataclass(frozen=True)
class AugmentOptions:
    """Iterates over `Cutout` and `Flips` with these parameters; the default is the stage-training paper's, but for the
    squares at the border (`cutout` "published")."""

    hflip: float = 0.5
    vflip: float = 0.5
    cutout: str = "fixed"
    cutout_probability: float = 0.5
    side: float = 0.05

    def __post_init__(self):
        list(self)  # each checks its own

    def __iter__(self) -> Iterator[Augmentation]:
        yield Cutout(self.cutout, self.cutout_probability, self.side)
        yield Flips(self.hflip, self.vflip)


def options_of(flips: str, cutout: str, more: Sequence[str] = ()) -> Iterable[Augmentation] | None:
    """A run's augmentation by its settings; None for none at all.

    Args:
        flips: One of FLIPS, each axis with probability 0.5.
        cutout: One of CUTOUTS.
        more: Further augmentations as they are written: "affine", or "affine(degrees=10, p=0.3)".
    """
    if flips not in FLIPS:
        raise UserError(f"flips {flips!r}: {choices(flips, FLIPS)}")
    others = tuple(map(read, more))
    names = [each.name for each in others]
    for name in names:
        if name in (Flips.name, Cutout.name):
            raise UserError(f"augment {name}: has a setting of its own; give --{name}")
        if names.count(name) > 1:
            raise UserError(f"augment {name}: is given {names.count(name)} times; give it once")
    if flips == "none" and cutout == "off":
        return others or None
    hflip, vflip = 0.0 if flips == "none" else 0.5, 0.5 if flips == "both" else 0.0
    options = AugmentOptions(hflip=hflip, vflip=vflip, cutout=cutout)
    return (*options, *others) if others else options


def in_order(augment: Iterable[Augmentation] | None) -> tuple[Augmentation, ...]:
    """Augmentations in the order in which they are applied; those that move pixels as one."""
    return fused(tuple(sorted(augment or (), key=lambda each: each.order)))


def decide(augment: Iterable[Augmentation], seed: int, epoch: int, start: int, count: int, size: int) -> Decisions:
    """The decisions for positions [start, start + count) of an epoch, by the names in `Augmentation.decides`.

    Returns: arrays [count, ...]; see the `decide` of each augmentation. size: side of the images in pixels.
    """
    made: Decisions = {}
    for each in in_order(augment):
        made |= each.decide(seed, epoch, start, count, size)
    return made


def carry_out(augment: Iterable[Augmentation], images: Images, made: Decisions, out: Images) -> None:
    """Copy `images`, uint8 [S, S, 1] each, to those of `out`, of the same shape, with the decisions carried out.

    A batch that was resized on the CPU is copied in any case, when it leaves DALI's memory. Augmenting image by image
    on the way finds each in the processor's cache; DALI's erase and flip would write the whole batch twice more.
    """
    work = [(each, each.steps(made, len(out[0]))) for each in in_order(augment)]
    for place in range(len(images)):
        image, target = images[place], out[place]
        for each, steps in work:
            if steps[place] is not None:
                each.apply(image, steps[place], target)
                image = target
        if image is not target:
            target[...] = image
