"""Asymmetric loss (Ridnik et al. 2021): easy negatives count little, and the easiest not at all."""

from dataclasses import dataclass
from typing import Any, ClassVar

from cxrdali.models.loss import GAMMA, Loss, Tensor
from cxrdali.setting import from_zero_below, setting


def asl_gamma_neg() -> Any:
    return setting(4.0, "exponent of negative terms.", GAMMA)


def asl_clip() -> Any:
    return setting(0.05, "subtracted from the probability of negatives (not below 0).", from_zero_below(1))


@dataclass(frozen=True)
class Asl(Loss):
    """As timm's, but without its lower limit of 1e-8 on probabilities, under which (logit -18) a positive gets no
    gradient. By the formula itself, with a clip, a negative whose probability nears 1 gets almost no gradient."""

    name: ClassVar[str] = "asl"

    asl_gamma_neg: float = asl_gamma_neg()
    asl_gamma_pos: float = setting(1.0, "exponent of positive terms.", GAMMA)
    asl_clip: float = asl_clip()

    def parts(self, logits, weights, epoch):
        from cxrdali.models.loss_module import focal_parts

        return focal_parts(logits, self.asl_gamma_pos)[0], shifted_negative(logits, self.asl_gamma_neg, self.asl_clip)


def shifted_negative(logits: Tensor, gamma: float, clip: float) -> Tensor:
    """q^gamma * -log(1 - q) with q = max(p - clip, 0): [B, F]."""
    import torch
    from torch.nn import functional as F

    # 1 - q = min(1 - p + clip, 1); without clip, log(1 - p) from the logit, which does not underflow
    term = -torch.log((torch.sigmoid(-logits) + clip).clamp(max=1)) if clip else -F.logsigmoid(-logits)
    return term * (torch.sigmoid(logits) - clip).clamp(min=0) ** gamma if gamma else term
