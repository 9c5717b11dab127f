"""Class-balanced focal loss (Cui et al. 2019): focal loss, weighted by the rarity of an image's findings."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.loss import Loss, cb_beta, class_balanced_weights, focal_gamma
from cxrdali.setting import one_of, setting


@dataclass(frozen=True)
class CbFocal(Loss):
    """Cui et al. have one class an image, whose weight multiplies all terms of the image. An image with several
    findings has the mean of their weights here (as in Wu et al. 2020), one without any has 1."""

    name: ClassVar[str] = "cb-focal"
    older: ClassVar[dict] = {"cb_terms": "positives"}

    focal_gamma: float = focal_gamma()
    cb_beta: float = cb_beta()
    cb_terms: str = setting(
        "all",
        "what the weights multiply: all terms of an image, by its findings, or positive terms, each by its own.",
        one_of(("all", "positives")),
    )

    def per_finding(self, positives, negatives):
        return {"balance": class_balanced_weights(positives, self.cb_beta)}

    def terms(self, logits, targets, weights, epoch):
        from cxrdali.models.loss_module import focal_terms, weigh_images, weigh_positives

        weigh = weigh_images if self.cb_terms == "all" else weigh_positives
        return weigh(focal_terms(logits, targets, self.focal_gamma), targets, weights["balance"])
