"""LDAM (Cao et al. 2019): positives must clear a margin, the larger the rarer their finding."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.finding_weights import margins
from cxrdali.models.loss import Loss
from cxrdali.setting import above, check, setting


@dataclass(frozen=True)
class Ldam(Loss):
    name: ClassVar[str] = "ldam"

    ldam_margin: float = setting(0.5, "the rarest finding's margin.", above(0, at_most=10))
    ldam_scale: float = setting(30.0, "factor of the logits, also in prediction.", above(0, at_most=1000))

    def __post_init__(self):
        check(self)

    @property
    def logit_scale(self):
        return self.ldam_scale

    def per_finding(self, positives, negatives):
        return {"shift": self.ldam_scale * margins(positives, self.ldam_margin)}

    def terms(self, logits, targets, weights, epoch):
        from cxrdali.models.loss_terms import bce_terms

        return bce_terms(logits, targets, shift=weights["shift"])
