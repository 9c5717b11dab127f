"""The augmentation of the papers by its numbers: flips and cutout."""

from collections.abc import Iterator
from dataclasses import dataclass

from cxrdali.data.augment.augmentation import Augmentation
from cxrdali.data.augment.cutout import Cutout
from cxrdali.data.augment.flips import Flips
from shards.errors import UserError

FLIPS = ("both", "horizontal", "none")


@dataclass(frozen=True)
class AugmentOptions:
    """Iterates over `Cutout` and `Flips` with these parameters; the default is the stage-training paper's."""

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


def options_of(flips: str, cutout: str) -> AugmentOptions | None:
    """A run's augmentation by its settings; None for none at all.

    Args:
        flips: both (each with probability 0.5), horizontal or none.
        cutout: one of `CUTOUTS`.
    """
    if flips not in FLIPS:
        raise UserError(f"flips {flips!r}: choose one of {', '.join(FLIPS)}")
    if flips == "none" and cutout == "off":
        return None
    return AugmentOptions(hflip=0.0 if flips == "none" else 0.5, vflip=0.5 if flips == "both" else 0.0, cutout=cutout)
