"""Cutout: black squares.

The stage-training paper's is albumentations' CutOut of 2023, whose "max" sizes are fixed sizes: five squares with sides
of 5 % of the image, kept whole at the top and left border and clipped at the bottom and right one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdali.data.augment.augmentation import Augmentation, Decisions, check_fractions, shared_numbers
from shards.errors import UserError
from shards.words import choices

CUTOUTS = ("fixed", "published", "random", "off")
SQUARES = 5
# Places among the numbers that it shares with the flips
_PRESENT, _COUNT, _CENTRES, _SIDES = 2, slice(3, 4), slice(4, 14), slice(14, 19)


def blackened(images: Any, first: Any, extent: Any) -> Any:
    """Images, uint8 [B, 1, S, S], with black rectangles: top and left, height and width of each, [B, n, 2]; tensors."""
    place = first.new_ones(images.shape[-1]).cumsum(0) - 1  # 0, 1, ...: this room takes no torch, not even here
    # [B, squares, (y, x), S]: which rows and columns a square covers
    covered = (place >= first[..., None]) & (place < (first + extent)[..., None])
    black: Any = False
    for square in range(first.shape[1]):  # one at a time: all at once would take n times the images' memory
        rows, columns = covered[:, square, 0, None, :, None], covered[:, square, 1, None, None, :]
        black = rows & columns | black
    return images.masked_fill(black, 0)


@dataclass(frozen=True)
class Cutout(Augmentation):
    """kind: "fixed" is five squares of exactly `side`, clipped at the border; "published" the same, placed as
    albumentations' CutOut of 2023 did; "random" one to five squares of one pixel up to `side`; "off" none.
    probability: of any, 0 to 1; side: the (largest) side as a fraction of the image's, 0 to 1."""

    name = "cutout"
    order = 10  # before the flips
    decides = {"anchor": np.float32, "shape": np.float32}

    kind: str = "fixed"
    cutout_probability: float = 0.5
    side: float = 0.05

    def __post_init__(self):
        check_fractions(self, "cutout_probability", "side")
        if self.kind not in CUTOUTS:
            raise UserError(f"cutout {self.kind!r}: {choices(self.kind, CUTOUTS)}")

    def decide(self, seed: int, epoch: int, start: int, count: int, size: int) -> Decisions:
        """anchor, shape: float32 [count, 10], top, left (height, width) of five squares in pixels; 0, 0 for none."""
        numbers = shared_numbers(seed, epoch, start, count)
        largest = int(size * self.side)
        published = self.kind == "published"
        places = size + published  # `random.randint(0, size)` has both ends
        centre = np.floor(numbers[:, _CENTRES].reshape(count, 2, SQUARES) * places)
        present = np.broadcast_to((numbers[:, _PRESENT] < self.cutout_probability)[:, None], (count, SQUARES))
        if self.kind == "random":
            present = present & (np.arange(SQUARES) < 1 + np.floor(numbers[:, _COUNT] * SQUARES))
            side = 1 + np.floor(numbers[:, _SIDES] * max(largest, 1))
        else:
            side = np.full((count, SQUARES), float(largest))
            if self.kind == "off":
                present = np.zeros_like(present)
        side = np.where(present, side, 0)[:, None]
        first = centre - side // 2
        low = np.clip(first, 0, size)
        high = np.clip((low if published else first) + side, 0, size)
        # [B, (y, x), 5] -> [B, 5, (y, x)] -> [B, 10]: one (y, x) pair after the other
        return {
            "anchor": np.ascontiguousarray(low.transpose(0, 2, 1).reshape(count, -1), dtype=np.float32),
            "shape": np.ascontiguousarray((high - low).transpose(0, 2, 1).reshape(count, -1), dtype=np.float32),
        }

    def steps(self, decided: Decisions, size: int) -> list[list | None]:
        """Per image its squares as (top, left, bottom, right) in pixels."""
        first = decided["anchor"].astype(np.int64).reshape(-1, SQUARES, 2)
        extent = decided["shape"].astype(np.int64).reshape(-1, SQUARES, 2)
        squares = np.concatenate([first, first + extent], axis=2).tolist()
        present = np.count_nonzero(extent, axis=(1, 2)).tolist()
        return [found if there else None for found, there in zip(squares, present, strict=True)]

    def apply(self, image: np.ndarray, step: list, out: np.ndarray) -> None:
        if image is not out:
            out[...] = image
        for top, left, bottom, right in step:
            out[top:bottom, left:right] = 0

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        return blackened(images, *(decided[name].view(-1, SQUARES, 2) for name in ("anchor", "shape")))
