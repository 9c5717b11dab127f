"""CLAHE: contrast-limited adaptive histogram equalisation (Zuiderveld 1994), as OpenCV has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cxrdali.data.augment.augmentation import Decisions, Sometimes
from cxrdali.data.augment.mirrored import mirrored
from cxrdali.setting import above, at_least, setting


@dataclass(frozen=True)
class Clahe(Sometimes):
    """Evens out the histogram of each tile, each level's share bounded, and blends between tiles."""

    name = "clahe"
    order = 4
    decides = {"clahe": np.int32}

    clip: float = setting(2.0, "largest share of a level in a tile, of the mean share.", above(0))
    tiles: int = setting(8, "tiles along each axis.", at_least(1))

    def how(self, numbers: np.ndarray, touched: np.ndarray, size: int) -> Decisions:
        return {}

    def steps(self, decided: Decisions, size: int) -> list[Any]:
        evener = cv2.createCLAHE(self.clip, (self.tiles, self.tiles))  # holds room of its own: for one thread
        return [evener if each else None for each in decided["clahe"].tolist()]

    def apply(self, image: np.ndarray, step: Any, out: np.ndarray) -> None:
        step.apply(image.copy() if image is out else image, out)

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        """Differs from OpenCV by one level at most, where a blend is rounded."""
        count, size, tiles = len(images), images.shape[-1], self.tiles
        side = -(-size // tiles)  # an image that no whole tiles fill is continued by its mirror image
        whole = side * tiles
        padded = images[:, 0]
        if whole > size:
            at = mirrored(images, 0, whole)
            padded = padded[:, at][:, :, at]
        # [B, tile row, tile column, pixel of the tile]
        levels = padded.view(count, tiles, side, tiles, side).transpose(2, 3).reshape(count, tiles**2, side**2).long()
        tables = self._tables(levels, side**2)
        place = tables.new_ones(size).cumsum(0) - 1
        along = place * (1 / side) - 0.5
        low = along.floor()
        part = along - low
        first, second = low.clamp(0, tiles - 1).long(), (low + 1).clamp(0, tiles - 1).long()
        level, flat = images[:, 0].long(), tables.view(count, -1)

        def of(row: Any, column: Any) -> Any:
            where = ((row[:, None] * tiles + column) * 256 + level).view(count, -1)
            return flat.gather(1, where).view(count, size, size)

        rest, rows, rest_rows = 1 - part, part[:, None], 1 - part[:, None]
        upper = of(first, first) * rest + of(first, second) * part
        lower = of(second, first) * rest + of(second, second) * part
        return (upper * rest_rows + lower * rows).round().clamp(0, 255).to(images.dtype).view_as(images)

    def _tables(self, levels: Any, area: int) -> Any:
        """What each level becomes in each tile: float32 [B, tiles, 256]; levels: int64 [B, tiles, pixels]."""
        counts = levels.new_zeros((*levels.shape[:2], 256)).scatter_add_(
            2, levels, levels.new_ones(()).expand_as(levels)
        )
        limit = max(1, int(self.clip * area / 256))
        above = (counts - limit).clamp(min=0).sum(2, keepdim=True)
        level = counts.new_ones(256).cumsum(0) - 1
        left = above % 256  # what cannot be shared evenly goes to levels at equal distances
        step = (256 // left.clamp(min=1)).clamp(min=1)
        extra = (level % step == 0) & (level // step < left)
        counts = counts.clamp(max=limit) + above // 256 + extra
        return (counts.cumsum(2) * (255 / area)).round().clamp(0, 255).float()
