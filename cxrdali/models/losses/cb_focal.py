"""Class-balanced focal loss (Cui et al. 2019): focal loss, weighted by the rarity of an image's findings."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.loss import Loss, cb_beta, cb_cap, class_balanced_weights, focal_gamma
from cxrdali.setting import one_of, setting


@dataclass(frozen=True)
class CbFocal(Loss):
    """Cui et al. have one class an image, whose weight multiplies all terms of the image. An image with several
    findings has the mean of their weights here (as in Wu et al. 2020), one without any has 1."""

    name: ClassVar[str] = "cb-focal"

    focal_gamma: float = focal_gamma()
    cb_beta: float | str = cb_beta()
    cb_cap: float = cb_cap()
    cb_terms: str = setting(
        "all",
        "what the weights multiply: all terms of an image, by its findings, or positive terms, each by its own.",
        one_of(("all", "positives")),
        before="positives",
    )

    def per_finding(self, positives, negatives):
        return {"balance": class_balanced_weights(positives, self.cb_beta, self.cb_cap)}

    def parts(self, logits, weights, epoch):
        from cxrdali.models.loss_module import focal_parts

        positive, negative = focal_parts(logits, self.focal_gamma)
        return (positive if self.cb_terms == "all" else positive * weights["balance"]), negative

    def image_weights(self, targets, weights):
        if self.cb_terms != "all":
            return None
        number = targets.sum(dim=1, keepdim=True)
        # what soft targets leave of one whole finding weighs as an image without any
        total = (targets * weights["balance"]).sum(dim=1, keepdim=True) + (1 - number).clamp(min=0)
        return total / number.clamp(min=1)
