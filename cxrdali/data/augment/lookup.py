"""What changes each gray level by itself: a table of 256 levels per image, the same on the CPU and on a device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from cxrdali.data.augment.augmentation import Decisions, Sometimes

LEVELS = np.arange(256, dtype=np.float64)


@dataclass(frozen=True)
class Lookup(Sometimes):
    """A subclass says by `levels` what becomes of each gray level; table: the decision that holds it."""

    table: ClassVar[str]

    def levels(self, numbers: np.ndarray) -> np.ndarray:
        """What the levels 0 to 255 become, float64 [n, 256]; they are rounded and kept within 0 to 255."""
        raise NotImplementedError

    def how(self, numbers: np.ndarray, touched: np.ndarray, size: int) -> Decisions:
        tables = np.zeros((len(numbers), 256), dtype=np.uint8)
        tables[touched] = np.clip(np.rint(self.levels(numbers[touched])), 0, 255)
        return {self.table: tables}

    def step(self, decided: Decisions, place: int, size: int) -> np.ndarray:
        return decided[self.table][place]

    def apply(self, image: np.ndarray, step: np.ndarray, out: np.ndarray) -> None:
        cv2.LUT(image, step, out)

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        return looked_up(images, decided[self.table])


def looked_up(images: Any, tables: Any) -> Any:
    """uint8 [B, 1, S, S] by tables uint8 [B, 256], a tensor each; one image at a time: places are eight bytes each."""
    found = images.new_empty(images.shape)
    for image, table, target in zip(images, tables, found, strict=True):
        target.copy_(table[image.long()])
    return found
