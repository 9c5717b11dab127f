"""Deferred re-weighting (Cao et al. 2019): cross-entropy, whose positive terms are weighted from some epoch on."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.loss import Loss, cb_beta, cb_cap, class_balanced_weights
from cxrdali.setting import Legal, setting


@dataclass(frozen=True)
class Drw(Loss):
    name: ClassVar[str] = "drw"

    cb_beta: float | str = cb_beta()
    cb_cap: float = cb_cap()
    drw_epoch: int = setting(
        10, "epochs before positive terms are re-weighted.", Legal(lambda value: value >= 0, "0 or more epochs")
    )

    @property
    def deferred_epochs(self):
        return self.drw_epoch

    def reweights(self, epoch):
        return epoch >= self.drw_epoch

    def per_finding(self, positives, negatives):
        return {"balance": class_balanced_weights(positives, self.cb_beta, self.cb_cap)}

    def parts(self, logits, weights, epoch):
        from cxrdali.models.loss_module import bce_parts

        return self._reweighted(bce_parts(logits), weights, epoch)

    def _reweighted(self, parts, weights, epoch):
        positive, negative = parts
        return (positive * weights["balance"] if self.reweights(epoch) else positive), negative
