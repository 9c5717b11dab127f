"""What moves pixels: every such augmentation is a matrix, and several of them are one matrix and one pass.

Bilinear, black outside of the image. OpenCV does it on the CPU; torch does the same arithmetic in float32 on a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cxrdali.data.augment.augmentation import Augmentation, Decisions, Sometimes, own_numbers


@dataclass(frozen=True)
class Warp(Sometimes):
    """A subclass says by `sources` where the pixels of an image come from."""

    order = 2
    decides = {"warped": np.int32, "warp": np.float32}

    @property
    def said_by(self) -> str:
        return "warped"

    def sources(self, numbers: np.ndarray, size: int) -> np.ndarray:
        """Of numbers as for `how` the matrices, float64 [n, 3, 3], that take a pixel (x, y, 1) of the new image to its
        place in the old one; pixels are at whole numbers."""
        raise NotImplementedError

    def matrices(self, seed: int, epoch: int, start: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Which images are touched, bool [count], and the matrix of each: the unit matrix where none is."""
        numbers = own_numbers(self.name, self.words, seed, epoch, start, count)
        touched = numbers[:, 0] < self.p
        return touched, np.where(touched[:, None, None], self.sources(numbers[:, 1:], size), np.eye(3))

    def decide(self, seed: int, epoch: int, start: int, count: int, size: int) -> Decisions:
        """warped: int32 [count]; warp: float32 [count, 6], the first two rows of the matrix."""
        touched, matrices = self.matrices(seed, epoch, start, count, size)
        return {"warped": touched.astype(np.int32), "warp": matrices[:, :2].reshape(count, 6).astype(np.float32)}

    def step(self, decided: Decisions, place: int, size: int) -> np.ndarray:
        return decided["warp"][place].reshape(2, 3)

    def apply(self, image: np.ndarray, step: np.ndarray, out: np.ndarray) -> None:
        if image is out:
            image = image.copy()
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(image, step, out.shape[1::-1], out, flags, cv2.BORDER_CONSTANT, 0)

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        """Differs from OpenCV 5 by one level at most, where the sums are rounded."""
        count, size = len(images), images.shape[-1]
        place = decided["warp"].new_ones(size).cumsum(0) - 1  # 0, 1, ...: this room takes no torch
        to_x, to_y = decided["warp"].view(count, 2, 3, 1, 1).unbind(1)
        x = to_x[:, 0] * place + to_x[:, 1] * place[:, None] + to_x[:, 2]
        y = to_y[:, 0] * place + to_y[:, 1] * place[:, None] + to_y[:, 2]
        left, top = x.floor(), y.floor()
        right_part, lower_part = x - left, y - top
        old = images.view(count, -1)

        def at(column: Any, row: Any) -> Any:
            inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
            where = (row.clamp(0, size - 1) * size + column.clamp(0, size - 1)).long().view(count, -1)
            return old.gather(1, where).view_as(column).to(column.dtype) * inside

        upper = at(left, top)
        upper = upper + right_part * (at(left + 1, top) - upper)
        lower = at(left, top + 1)
        lower = lower + right_part * (at(left + 1, top + 1) - lower)
        return (upper + lower_part * (lower - upper)).round().to(images.dtype).view_as(images)


@dataclass(frozen=True)
class Warps(Warp):
    """Several as one: an image is interpolated once, and a part that one cuts off is there for the next."""

    parts: tuple[Warp, ...] = ()

    @property
    def title(self) -> str:
        return " or ".join(each.title for each in self.parts)

    def matrices(self, seed: int, epoch: int, start: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        touched, matrices = np.zeros(count, dtype=bool), np.broadcast_to(np.eye(3), (count, 3, 3))
        for part in self.parts:  # the first applied is the last on the way back to the old image
            own, matrix = part.matrices(seed, epoch, start, count, size)
            touched, matrices = touched | own, matrices @ matrix
        return touched, matrices


def fused(augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
    """The same with all that move pixels as one, in the place of the first."""
    parts = tuple(each for each in augment if isinstance(each, Warp))
    if len(parts) < 2:
        return augment
    return tuple(Warps(parts=parts) if each is parts[0] else each for each in augment if each not in parts[1:])
