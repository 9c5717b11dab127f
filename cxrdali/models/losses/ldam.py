"""LDAM (Cao et al. 2019): positives must clear a margin, the larger the rarer their finding."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cxrdali.models.loss import Loss
from cxrdali.setting import above, setting


@dataclass(frozen=True)
class Ldam(Loss):
    name: ClassVar[str] = "ldam"

    ldam_margin: float = setting(0.5, "the rarest finding's margin.", above(0, at_most=10))
    ldam_scale: float = setting(30.0, "factor of the logits, also in prediction.", above(0, at_most=1000))

    @property
    def logit_scale(self):
        return self.ldam_scale

    def per_finding(self, positives, negatives):
        return {"shift": self.ldam_scale * margins(positives, self.ldam_margin)}

    def parts(self, logits, weights, epoch):
        from cxrdali.models.loss_module import bce_parts

        return bce_parts(logits, weights["shift"])


def margins(positives: np.ndarray, largest: float) -> np.ndarray:
    """`largest` for the rarest finding, n^(-1/4) times a constant for the others: float64 [F] (Cao et al. 2019).

    0 for a finding without positives: only positives have a margin.
    """
    present = positives > 0
    if not present.any():
        return np.zeros(len(positives))
    falling = np.where(present, positives, 1).astype(np.float64) ** -0.25
    return np.where(present, largest * falling / falling[present].max(), 0.0)
