"""Class-balanced focal loss (Cui et al. 2019): focal loss, positive terms weighted by the finding's rarity."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.loss import Loss, cb_beta, cb_cap, class_balanced_weights, focal_gamma


@dataclass(frozen=True)
class CbFocal(Loss):
    name: ClassVar[str] = "cb-focal"

    focal_gamma: float = focal_gamma()
    cb_beta: float | str = cb_beta()
    cb_cap: float = cb_cap()

    def per_finding(self, positives, negatives):
        return {"balance": class_balanced_weights(positives, self.cb_beta, self.cb_cap)}

    def terms(self, logits, targets, weights, epoch):
        from cxrdali.models.loss_module import focal_terms, weigh_positives

        return weigh_positives(focal_terms(logits, targets, self.focal_gamma), targets, weights["balance"])
