"""Some black squares, as many and as large as chance has it: the cutout of the systems of 2024 and later."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdali.data.augment.augmentation import Decisions, Sometimes
from cxrdali.data.augment.cutout import blackened
from cxrdali.setting import above, at_least, setting


@dataclass(frozen=True)
class Squares(Sometimes):
    """From one to `most` squares with sides from one pixel to `side`, anywhere within the image."""

    name = "squares"
    order = 9
    decides = {"squares": np.int32, "squares_at": np.int32}

    most: int = setting(6, "most squares of an image.", at_least(1))
    side: float = setting(0.047, "largest side, of the image's.", above(0, at_most=1))

    @property
    def words(self) -> int:  # type: ignore[override]  # of each square three, and two
        return -(-(2 + 3 * self.most) // 4) * 4

    def how(self, numbers: np.ndarray, touched: np.ndarray, size: int) -> Decisions:
        """squares_at: int32 [count, 4 * most], top, left, height and width of each in pixels, 0 for none."""
        side, top, left = numbers[:, 1 : 1 + 3 * self.most].reshape(-1, 3, self.most).transpose(1, 0, 2)
        there = np.arange(self.most) < 1 + np.floor(numbers[:, :1] * self.most)
        side = there * (1 + np.floor(side * max(1, int(size * self.side))))
        first = [np.floor(each * (size - side + 1)) for each in (top, left)]
        return {"squares_at": np.stack([*first, side, side], axis=2).reshape(len(numbers), -1).astype(np.int32)}

    def step(self, decided: Decisions, place: int, size: int) -> list[list[int]]:
        return decided["squares_at"][place].reshape(-1, 4).tolist()

    def apply(self, image: np.ndarray, step: list[list[int]], out: np.ndarray) -> None:
        if image is not out:
            out[...] = image
        for top, left, height, width in step:
            out[top : top + height, left : left + width] = 0

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        first, extent = decided["squares_at"].view(-1, self.most, 2, 2).unbind(2)
        return blackened(images, first, extent)
