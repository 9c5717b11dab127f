"""Logit adjustment (Menon et al. 2021): the model learns what an image says beside how frequent a finding is."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.loss import Loss, log_odds_against
from cxrdali.setting import at_least, setting


@dataclass(frozen=True)
class LogitAdjustment(Loss):
    """Menon et al. add tau * log(prior) to each class's logit in training. A finding is a problem of two classes, there
    or not, and the sigmoid sees the difference of their logits: tau times the log of the prior odds. Prediction goes
    without it, so with tau 1 a probability is that of a finding as frequent as its absence."""

    name: ClassVar[str] = "logit-adjustment"

    la_tau: float = setting(1.0, "part of a finding's log-odds that is added to its logit in training.", at_least(0))

    def per_finding(self, positives, negatives):
        return {"prior": self.la_tau * log_odds_against(positives, negatives)}

    def parts(self, logits, weights, epoch):
        from cxrdali.models.loss_module import bce_parts

        return bce_parts(logits - weights["prior"])
