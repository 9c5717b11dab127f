"""Two-way loss (Kobayashi 2023): positives above negatives among an image's findings, and among a finding's images."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.loss import Loss
from cxrdali.setting import above, setting


@dataclass(frozen=True)
class TwoWay(Loss):
    """An image's term, which all its findings get, compares its findings; a finding's term, which all images get,
    compares the images at hand: those of a micro-batch, as batch normalisation sees them. Images without a finding, and
    findings without an image, have no term, and the means are over the others. Targets are 0 or 1."""

    name: ClassVar[str] = "two-way"

    two_way_temperature: float = setting(4.0, "of the soft minimum over positives.", above(0, at_most=1000))

    @property
    def couples(self):
        return True

    def terms(self, logits, targets, weights, epoch):
        return self._means(logits, targets, 1) + self._means(logits, targets, 0)

    def _means(self, logits, targets, axis):
        """One way's terms, [B, 1] along the findings of an image (axis 1) or [1, F]; their mean is Kobayashi's, which
        leaves out what has no positive."""
        from torch.nn import functional as F

        from cxrdali.models.loss_module import LOWEST

        there, heat = targets > 0, self.two_way_temperature
        lowest = (-logits / heat).masked_fill(~there, LOWEST).logsumexp(dim=axis, keepdim=True) * heat
        highest = logits.masked_fill(there, LOWEST).logsumexp(dim=axis, keepdim=True)
        some = there.any(dim=axis, keepdim=True).to(logits.dtype)
        return -F.logsigmoid(-lowest - highest) * some * (some.numel() / some.sum().clamp(min=1))
