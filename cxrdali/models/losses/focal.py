"""Focal loss (Lin et al. 2017): terms shrink as the model gets them right."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.loss import Loss, focal_gamma
from cxrdali.setting import Legal, setting

_ALPHA = Legal(lambda value: value == -1 or 0 <= value <= 1, "0 to 1, or -1 for none")


@dataclass(frozen=True)
class Focal(Loss):
    name: ClassVar[str] = "focal"

    focal_gamma: float = focal_gamma()
    focal_alpha: float = setting(-1.0, "weight of positive terms, 0 to 1; -1: none.", _ALPHA)

    def parts(self, logits, weights, epoch):
        from cxrdali.models.loss_module import focal_parts

        (positive, negative), alpha = focal_parts(logits, self.focal_gamma), self.focal_alpha
        return (positive, negative) if alpha == -1 else (alpha * positive, (1 - alpha) * negative)
