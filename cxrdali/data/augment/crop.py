"""A part of an image at the size of the whole."""

from dataclasses import dataclass

import numpy as np

from cxrdali.data.augment.warp import Warp
from cxrdali.setting import above, setting
from shards.errors import UserError


@dataclass(frozen=True)
class Crop(Warp):
    """A square part anywhere in the image, whose area is uniform within its bounds."""

    name = "crop"

    least: float = setting(0.85, "least area of the part, of the whole.", above(0, at_most=1))
    most: float = setting(1.0, "largest area of the part.", above(0, at_most=1))

    def __post_init__(self):
        super().__post_init__()
        if self.least > self.most:
            raise UserError(f"least {self.least}: at most the largest area, {self.most}")

    def sources(self, numbers: np.ndarray, size: int) -> np.ndarray:
        side = size * np.sqrt(self.least + numbers[:, 0] * (self.most - self.least))
        back = np.zeros((len(numbers), 3, 3))
        # the centres of corner pixels meet: at the border of the image nothing of what is outside gets in
        back[:, 0, 0] = back[:, 1, 1] = np.maximum(side - 1, 0) / max(size - 1, 1)
        back[:, :2, 2] = numbers[:, 1:3] * (size - side[:, None])
        back[:, 2, 2] = 1
        return back
