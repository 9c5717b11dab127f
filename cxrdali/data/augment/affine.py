"""Shift, size and rotation of an image, in one pass."""

from dataclasses import dataclass

import numpy as np

from cxrdali.data.augment.augmentation import spread
from cxrdali.data.augment.warp import Warp
from cxrdali.setting import Legal, from_zero_below, setting


@dataclass(frozen=True)
class Affine(Warp):
    """Shifts, resizes and rotates about the centre, all uniform within their bounds; black outside of the image."""

    name = "affine"
    order = 3
    words = 8

    shift: float = setting(0.03, "largest shift along each axis, of the side.", from_zero_below(1))
    scale: float = setting(0.05, "largest change of size: 0.05 is from 95 to 105 %.", from_zero_below(1))
    degrees: float = setting(7.0, "largest rotation.", Legal(lambda value: 0 <= value <= 180, "0 to 180"))

    def sources(self, numbers: np.ndarray, size: int) -> np.ndarray:
        angle = np.deg2rad(spread(numbers[:, 0], self.degrees))  # above 0: counter-clockwise, as OpenCV has it
        factor = 1 + spread(numbers[:, 1], self.scale)
        cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
        back = np.zeros((len(numbers), 3, 3))
        back[:, 0, 0], back[:, 0, 1], back[:, 1, 0], back[:, 1, 1], back[:, 2, 2] = cos, -sin, sin, cos, 1
        centre = (size - 1) / 2
        moved = centre + spread(numbers[:, 2:4], self.shift) * size  # where the old centre comes to lie
        back[:, :2, 2] = centre - (back[:, :2, :2] @ moved[:, :, None])[:, :, 0]
        return back
