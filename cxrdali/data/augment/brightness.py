"""Brightness and contrast."""

from dataclasses import dataclass

import numpy as np

from cxrdali.data.augment.augmentation import spread
from cxrdali.data.augment.lookup import LEVELS, Lookup
from cxrdali.setting import from_zero_below, setting


@dataclass(frozen=True)
class Brightness(Lookup):
    """Level x becomes (1 + c) x + 255 b, with c and b uniform within their bounds."""

    name = "brightness"
    order = 6
    decides = {"brightness": np.int32, "brightness_table": np.uint8}
    table = "brightness_table"

    brightness: float = setting(0.08, "largest b, either way.", from_zero_below(1))
    contrast: float = setting(0.08, "largest c, either way.", from_zero_below(1))

    def levels(self, numbers: np.ndarray) -> np.ndarray:
        factor, added = 1 + spread(numbers[:, :1], self.contrast), 255 * spread(numbers[:, 1:2], self.brightness)
        return factor * LEVELS + added
