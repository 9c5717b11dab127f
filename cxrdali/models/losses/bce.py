"""Binary cross-entropy, with weights of positive terms."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.finding_weights import POSITIVE_WEIGHTS, positive_weights
from cxrdali.models.loss import Loss
from cxrdali.setting import Legal, check, setting

_KINDS = Legal(POSITIVE_WEIGHTS.__contains__, f"one of {', '.join(POSITIVE_WEIGHTS)}", POSITIVE_WEIGHTS)


@dataclass(frozen=True)
class Bce(Loss):
    name: ClassVar[str] = "bce"

    pos_weight: str = setting(
        "none", "weight of positive terms: negatives per positive of each finding, its root, or none.", _KINDS
    )

    def __post_init__(self):
        check(self)

    def per_finding(self, positives, negatives):
        return {"pos_weight": positive_weights(positives, negatives, self.pos_weight)}

    def terms(self, logits, targets, weights, epoch):
        from cxrdali.models.loss_terms import bce_terms

        return bce_terms(logits, targets, pos_weight=weights["pos_weight"])
