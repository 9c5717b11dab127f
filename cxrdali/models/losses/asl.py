"""Asymmetric loss (Ridnik et al. 2021): easy negatives count little, and the easiest not at all."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.loss import GAMMA, Loss
from cxrdali.setting import from_zero_below, setting


@dataclass(frozen=True)
class Asl(Loss):
    """As timm's, but without its lower limit of 1e-8 on probabilities, under which (logit -18) a positive gets no
    gradient. By the formula itself, with a clip, a negative whose probability nears 1 gets almost no gradient."""

    name: ClassVar[str] = "asl"

    asl_gamma_neg: float = setting(4.0, "exponent of negative terms.", GAMMA)
    asl_gamma_pos: float = setting(1.0, "exponent of positive terms.", GAMMA)
    asl_clip: float = setting(0.05, "subtracted from the probability of negatives (not below 0).", from_zero_below(1))

    def terms(self, logits, targets, weights, epoch):
        import torch
        from torch.nn import functional as F

        positive, p, clip = -F.logsigmoid(logits), torch.sigmoid(logits), self.asl_clip
        if self.asl_gamma_pos:
            positive = positive * torch.sigmoid(-logits) ** self.asl_gamma_pos
        # 1 - q = min(1 - p + clip, 1); without clip, log(1 - p) from the logit, which does not underflow
        negative = -torch.log((torch.sigmoid(-logits) + clip).clamp(max=1)) if clip else -F.logsigmoid(-logits)
        if self.asl_gamma_neg:
            negative = negative * (p - clip).clamp(min=0) ** self.asl_gamma_neg
        return torch.where(targets == 1, positive, negative)
