"""Binary cross-entropy, with weights of positive terms."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cxrdali.models.loss import Loss
from cxrdali.setting import Legal, setting

POSITIVE_WEIGHTS = ("none", "sqrt", "ratio")
_KINDS = Legal(POSITIVE_WEIGHTS.__contains__, f"one of {', '.join(POSITIVE_WEIGHTS)}", POSITIVE_WEIGHTS)


@dataclass(frozen=True)
class Bce(Loss):
    name: ClassVar[str] = "bce"

    pos_weight: str = setting(
        "none", "weight of positive terms: negatives per positive of each finding, its root, or none.", _KINDS
    )

    def per_finding(self, positives, negatives):
        return {"pos_weight": positive_weights(positives, negatives, self.pos_weight)}

    @property
    def soft(self):
        return True

    def terms(self, logits, targets, weights, epoch):
        from cxrdali.models.loss_module import bce_terms

        return bce_terms(logits, targets, pos_weight=weights["pos_weight"])


def positive_weights(positives: np.ndarray, negatives: np.ndarray, kind: str) -> np.ndarray:
    """negatives / positives of each finding ("ratio"), its square root ("sqrt"), or 1 ("none"): float64 [F].

    1 for a finding without positives, whose weight no term has, or without negatives, which would weigh nothing.
    """
    ratio = np.where((positives > 0) & (negatives > 0), negatives / np.maximum(positives, 1), 1.0)
    return {"none": np.ones(len(positives)), "sqrt": np.sqrt(ratio), "ratio": ratio}[kind]
