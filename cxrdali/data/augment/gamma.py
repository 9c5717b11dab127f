"""Gamma: middle gray levels darker or lighter, black and white as they are."""

from dataclasses import dataclass

import numpy as np

from cxrdali.data.augment.augmentation import spread
from cxrdali.data.augment.lookup import LEVELS, Lookup
from cxrdali.setting import above, setting


@dataclass(frozen=True)
class Gamma(Lookup):
    """Level x becomes 255 (x / 255)^g; the logarithm of g is uniform, so that darker is as likely as lighter."""

    name = "gamma"
    order = 8
    decides = {"gamma": np.int32, "gamma_table": np.uint8}
    table = "gamma_table"

    most: float = setting(1.25, "largest g, or 1 / g.", above(1))

    def levels(self, numbers: np.ndarray) -> np.ndarray:
        return 255 * (LEVELS / 255) ** np.exp(spread(numbers[:, :1], np.log(self.most)))
