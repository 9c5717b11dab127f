"""The augmentation's decisions: which flips, which squares; on a GPU carried out by DALI, on the CPU below.

The paper's: horizontal flip, vertical flip and cutout, each with probability 0.5. Its cutout is five black
squares with sides of 5 % of the image, centred anywhere, clipped at the border (albumentations' CutOut of
2023, whose "max" sizes are fixed sizes). Every sample owns WORDS words of a counter-based stream, at its
position in the epoch, so the decisions do not depend on batch size, threads, ranks or where a run resumed.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from cxrdali.data.options import CUTOUTS, FLIPS
from cxrdali.data.order import AUGMENT, stream
from shards.errors import UserError
from shards.randomness import raw_words, unit_floats

SQUARES = 5
WORDS = 20  # 0 hflip, 1 vflip, 2 cutout, 3 count, 4-8 centre y, 9-13 centre x, 14-18 side, 19 unused


@dataclass(frozen=True)
class AugmentOptions:
    """Probabilities 0 to 1; `side` is the cutout squares' (largest) side as a fraction of the image's.

    cutout: "fixed" draws five squares of exactly `side` (the paper's), "random" one to five squares of one
    pixel up to `side`, "off" none.
    """

    hflip: float = 0.5
    vflip: float = 0.5
    cutout: str = "fixed"
    cutout_probability: float = 0.5
    side: float = 0.05

    def __post_init__(self):
        for name in ("hflip", "vflip", "cutout_probability", "side"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)}: 0 to 1")
        if self.cutout not in CUTOUTS:
            raise UserError(f"cutout {self.cutout!r}: choose one of {', '.join(CUTOUTS)}")


def options_of(flips: str, cutout: str) -> AugmentOptions | None:
    """A run's augmentation by its settings; None for none at all. flips: both (each with probability 0.5), horizontal
    or none."""
    if flips not in FLIPS:
        raise UserError(f"flips {flips!r}: choose one of {', '.join(FLIPS)}")
    if flips == "none" and cutout == "off":
        return None
    return AugmentOptions(hflip=0.0 if flips == "none" else 0.5, vflip=0.5 if flips == "both" else 0.0, cutout=cutout)


@dataclass(frozen=True)
class Decisions:
    """For B samples of S x S pixels: horizontal, vertical int32 [B] (0 or 1); anchor, shape float32 [B, 10]:
    top, left (height, width) of five squares in pixels, clipped to the image; height and width 0 for none."""

    horizontal: np.ndarray
    vertical: np.ndarray
    anchor: np.ndarray
    shape: np.ndarray


def decide(options: AugmentOptions, seed: int, epoch: int, start: int, count: int, pixels: int) -> Decisions:
    """The decisions for positions [start, start + count) of an epoch. Cutout comes before the flips."""
    words = raw_words(seed, stream(AUGMENT, epoch), start * WORDS, count * WORDS)
    draws = unit_floats(words).reshape(count, WORDS)
    largest = int(pixels * options.side)
    centre = np.floor(draws[:, 4:14].reshape(count, 2, SQUARES) * pixels)
    present = np.broadcast_to((draws[:, 2] < options.cutout_probability)[:, None], (count, SQUARES))
    if options.cutout == "random":
        present = present & (np.arange(SQUARES) < 1 + np.floor(draws[:, 3:4] * SQUARES))
        side = 1 + np.floor(draws[:, 14:19] * max(largest, 1))
    else:
        side = np.full((count, SQUARES), float(largest))
        if options.cutout == "off":
            present = np.zeros_like(present)
    side = np.where(present, side, 0)[:, None]
    first = centre - side // 2
    low, high = np.clip(first, 0, pixels), np.clip(first + side, 0, pixels)
    # [B, (y, x), 5] -> [B, 5, (y, x)] -> [B, 10]: DALI wants one (y, x) pair after the other
    return Decisions(
        horizontal=(draws[:, 0] < options.hflip).astype(np.int32),
        vertical=(draws[:, 1] < options.vflip).astype(np.int32),
        anchor=np.ascontiguousarray(low.transpose(0, 2, 1).reshape(count, -1), dtype=np.float32),
        shape=np.ascontiguousarray((high - low).transpose(0, 2, 1).reshape(count, -1), dtype=np.float32),
    )


_FLIP_CODES = (None, 1, 0, -1)  # OpenCV's, for horizontal + 2 * vertical


def carry_out(images: np.ndarray, made: Decisions, out: np.ndarray) -> None:
    """Copy `images` to `out`, both uint8 [B, S, S, 1], with the squares black and the flips done.

    On the CPU a batch is copied once in any case, when it leaves DALI's memory. Flipping on the way costs about
    what the copy alone does; DALI's erase and flip would write every image twice more.
    """
    for place, code in enumerate((made.horizontal + 2 * made.vertical).tolist()):
        if code:
            cv2.flip(images[place], _FLIP_CODES[code], out[place])
        else:
            out[place] = images[place]
    pixels = images.shape[1]
    count = len(made.anchor)
    first = made.anchor.reshape(count, SQUARES, 2).astype(np.int64)
    extent = made.shape.reshape(count, SQUARES, 2).astype(np.int64)
    flipped = np.stack([made.vertical, made.horizontal], axis=1)[:, None, :] == 1
    first = np.where(flipped, pixels - first - extent, first)  # the squares are mirrored with their image
    last = first + extent
    for place in np.flatnonzero(extent.any(axis=(1, 2))).tolist():
        for (top, left), (bottom, right) in zip(first[place].tolist(), last[place].tolist(), strict=True):
            out[place, top:bottom, left:right] = 0
