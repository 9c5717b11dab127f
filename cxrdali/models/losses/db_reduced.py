"""A reduced distribution-balanced loss, that of the CXR-LT 2026 winner's second stage."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cxrdali.models.loss import Loss, cb_beta, class_balanced_weights, effective_images
from cxrdali.setting import at_least, setting


@dataclass(frozen=True)
class DbReduced(Loss):
    """Every finding has one weight, whatever else an image has, and negatives are not tolerated more than in BCE. The
    margin is larger for more frequent findings, the reverse of LDAM's."""

    name: ClassVar[str] = "db-reduced"

    cb_beta: float | str = cb_beta()
    db_power: float = setting(0.5, "exponent of the class-balanced weights of all terms.", at_least(0))
    db_margin: float = setting(0.2, "the most frequent finding's margin; the rarest has none.", at_least(0))

    def per_finding(self, positives, negatives):
        images, present = effective_images(positives, self.cb_beta), positives > 0
        low, high = (images[present].min(), images[present].max()) if present.any() else (0, 0)
        share = np.where(present, (images - low) / (high - low), 0.0) if high > low else np.zeros(len(images))
        balance = class_balanced_weights(positives, self.cb_beta) ** self.db_power
        return {"balance": balance, "shift": self.db_margin * share}

    def parts(self, logits, weights, epoch):
        from cxrdali.models.loss_module import bce_parts

        positive, negative = bce_parts(logits, weights["shift"])
        return weights["balance"] * positive, weights["balance"] * negative
