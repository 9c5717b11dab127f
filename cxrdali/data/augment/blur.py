"""Gaussian blur."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cxrdali.data.augment.augmentation import Decisions, Sometimes
from cxrdali.data.augment.mirrored import mirrored
from cxrdali.setting import above, setting


@dataclass(frozen=True)
class Blur(Sometimes):
    """Blurs with a standard deviation that is uniform from a tenth of its bound to its bound."""

    name = "blur"
    order = 10
    decides = {"blur": np.int32, "blur_sigma": np.float32}

    pixels: float = setting(1.0, "largest standard deviation in pixels.", above(0, at_most=50))

    @property
    def radius(self) -> int:
        return int(np.ceil(3 * self.pixels))

    def how(self, numbers: np.ndarray, touched: np.ndarray, size: int) -> Decisions:
        return {"blur_sigma": (self.pixels * (0.1 + 0.9 * numbers[:, 0])).astype(np.float32)}

    def step(self, decided: Decisions, place: int, size: int) -> float:
        return float(decided["blur_sigma"][place])

    def apply(self, image: np.ndarray, step: float, out: np.ndarray) -> None:
        # not GaussianBlur: with bytes its weights are whole 256ths, and it is two levels off
        weights = cv2.getGaussianKernel(2 * self.radius + 1, step, cv2.CV_32F)
        cv2.sepFilter2D(image.copy() if image is out else image, -1, weights, weights, out)

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        """Differs from OpenCV by one level at most, where a sum is rounded."""
        size, sigma = images.shape[-1], decided["blur_sigma"][:, None, None, None]
        away = range(-self.radius, self.radius + 1)
        weights = [(-(each**2) / (2 * sigma**2)).exp() for each in away]
        total, blurred = sum(weights), images.float()
        for axis in (2, 3):
            at = [mirrored(images, each, size + each) for each in away]
            blurred = (
                sum(blurred.index_select(axis, to) * weight for to, weight in zip(at, weights, strict=True)) / total
            )
        return blurred.round().clamp(0, 255).to(images.dtype)
