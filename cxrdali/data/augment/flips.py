"""Mirroring left to right and upside down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cxrdali.data.augment.augmentation import Augmentation, Decisions, check_fractions, shared_numbers

_CODES = (None, 1, 0, -1)  # OpenCV's, for horizontal + 2 * vertical


@dataclass(frozen=True)
class Flips(Augmentation):
    """hflip, vflip: probability of mirroring left to right, and upside down, 0 to 1."""

    name = "flips"
    order = 20
    decides = {"horizontal": np.int32, "vertical": np.int32}

    hflip: float = 0.5
    vflip: float = 0.5

    def __post_init__(self):
        check_fractions(self, "hflip", "vflip")

    def decide(self, seed: int, epoch: int, start: int, count: int, size: int) -> Decisions:
        """horizontal, vertical: int32 [count], 1 where the image is mirrored."""
        numbers = shared_numbers(seed, epoch, start, count)
        return {
            "horizontal": (numbers[:, 0] < self.hflip).astype(np.int32),
            "vertical": (numbers[:, 1] < self.vflip).astype(np.int32),
        }

    def steps(self, decided: Decisions, size: int) -> list[int | None]:
        return [_CODES[code] for code in (decided["horizontal"] + 2 * decided["vertical"]).tolist()]

    def apply(self, image: np.ndarray, step: int, out: np.ndarray) -> None:
        if image is out:  # OpenCV does not say that it flips in place
            image = image.copy()
        cv2.flip(image, step, out)

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        for name, axis in (("horizontal", 3), ("vertical", 2)):
            images = images.flip(axis).where(decided[name].bool()[:, None, None, None], images)
        return images
