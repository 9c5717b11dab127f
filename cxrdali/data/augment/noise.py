"""Gaussian noise, added to each pixel: the same on the CPU and on a device."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np

from cxrdali.data.augment.augmentation import Decisions, Sometimes
from cxrdali.data.order import NOISE, stream
from cxrdali.setting import above, setting
from shards.randomness import raw_words, unit_floats

UNIT, ZERO = 32, 128  # a table has bytes: 128 is 0, and 32 levels are a standard deviation
TIMES = 4  # as long as so many images
_SENT: dict[tuple[Any, int], Any] = {}  # tables by device and side: each is sent once


@dataclass(frozen=True)
class Noise(Sometimes):
    """Adds normal numbers, whose standard deviation is uniform from 0 to its bound, and cuts them off at 4 of these.

    An image's are a piece of one table, which a counter-based stream gives: to make numbers for each image would take
    ten times as long.
    """

    name = "noise"
    order = 12
    decides = {"noise": np.int32, "noise_first": np.int32, "noise_factor": np.float32}

    sigma: float = setting(0.02, "largest standard deviation, of white.", above(0, at_most=1))

    def how(self, numbers: np.ndarray, touched: np.ndarray, size: int) -> Decisions:
        """noise_first: where an image's piece of the table begins; noise_factor: levels of gray per level there."""
        first = np.floor(numbers[:, 0] * ((TIMES - 1) * size**2 + 1)).astype(np.int32)
        return {"noise_first": first, "noise_factor": (255 * self.sigma / UNIT * numbers[:, 1]).astype(np.float32)}

    def step(self, decided: Decisions, place: int, size: int) -> tuple[np.ndarray, float]:
        first = decided["noise_first"][place]
        return normal(size)[first : first + size**2].reshape(size, size, 1), float(decided["noise_factor"][place])

    def apply(self, image: np.ndarray, step: tuple[np.ndarray, float], out: np.ndarray) -> None:
        numbers, factor = step
        cv2.addWeighted(image, 1, numbers, factor, -ZERO * factor, out)

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        """Differs from OpenCV by one level at most, where a sum is rounded."""
        size = images.shape[-1]
        if (images.device, size) not in _SENT:
            _SENT[images.device, size] = images.new_tensor(normal(size))
        pieces = _SENT[images.device, size].unfold(0, size**2, 1)  # all that there are, in no memory of their own
        numbers = pieces[decided["noise_first"].long()].view_as(images).float() - ZERO
        factor = decided["noise_factor"][:, None, None, None]
        return (images + numbers * factor).round().clamp(0, 255).to(images.dtype)


@cache
def normal(size: int) -> np.ndarray:
    """uint8 [TIMES * size**2], for images of this side: normal numbers, as UNIT and ZERO say."""
    from scipy.special import ndtri  # here: settings name this augmentation, and answer at once

    count = TIMES * size**2
    uniform = unit_floats(raw_words(0, stream(NOISE, 0), 0, count))
    return np.clip(np.rint(ZERO + UNIT * ndtri(uniform + 2.0**-54)), 1, 255).astype(np.uint8)
