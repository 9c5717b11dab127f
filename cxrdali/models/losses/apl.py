"""Asymmetric polynomial loss (Huang et al. 2023): ASL, with other first coefficients in the series of -log p."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.loss import GAMMA, Loss
from cxrdali.models.losses.asl import asl_clip, asl_gamma_neg, shifted_negative
from cxrdali.setting import Legal, at_least, setting

_FIRST = Legal(lambda value: 0 <= value <= 1, "0 to 1: above, surer positives would cost more")


@dataclass(frozen=True)
class Apl(Loss):
    """-log p is the sum of (1 - p)^m / m. With the defaults the first coefficient is 0 instead of 1, and the second
    1.75 instead of 0.5. Negatives are as ASL has them, as in Huang et al.'s own code."""

    name: ClassVar[str] = "apl"

    asl_gamma_neg: float = asl_gamma_neg()
    asl_clip: float = asl_clip()
    apl_gamma_pos: float = setting(0.0, "exponent of positive terms.", GAMMA)
    apl_first: float = setting(1.0, "taken off the coefficient of 1 - p in positive terms.", _FIRST)
    apl_second: float = setting(2.5, "twice what is added to that of its square.", at_least(0))

    def parts(self, logits, weights, epoch):
        import torch
        from torch.nn import functional as F

        wrong = torch.sigmoid(-logits)  # 1 - p
        positive = -F.logsigmoid(logits) - self.apl_first * wrong + self.apl_second / 2 * wrong**2
        if self.apl_gamma_pos:
            positive = positive * wrong**self.apl_gamma_pos
        return positive, shifted_negative(logits, self.asl_gamma_neg, self.asl_clip)
