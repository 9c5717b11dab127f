"""Distribution-balanced loss (Wu et al. 2020): an image's findings re-balance each other, negatives are tolerated."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cxrdali.models.loss import Loss, focal_gamma, log_odds_against
from cxrdali.setting import above, at_least, setting


@dataclass(frozen=True)
class Db(Loss):
    """Re-balanced weighting with negative-tolerant regularisation and focal terms, as Wu et al. use them together
    (`focal_gamma` 0: without focal terms). Defaults are theirs for COCO-MLT; for VOC-MLT they have mu 0.3, lambda 5.

    Their images all have a finding. One without any has the weight that the formula nears, alpha + 1.
    """

    name: ClassVar[str] = "db"

    db_alpha: float = setting(0.1, "smallest weight of a term; the smoothing function adds 0 to 1.", at_least(0))
    db_beta: float = setting(10.0, "steepness of the smoothing function.", above(0))
    db_mu: float = setting(0.2, "re-balancing ratio, 0 to 1, at which the smoothing function is half way.", at_least(0))
    db_lambda: float = setting(2.0, "how much sharper and smaller terms of negatives are.", above(0))
    db_kappa: float = setting(0.05, "part of a finding's log-odds that is taken off its logits.", at_least(0))
    focal_gamma: float = focal_gamma()

    def per_finding(self, positives, negatives):
        each = 1 / np.maximum(positives, 1)
        rarity = each / (each[positives > 0].mean() if (positives > 0).any() else 1)
        return {"rarity": rarity, "prior": self.db_kappa * log_odds_against(positives, negatives)}

    def parts(self, logits, weights, epoch):
        from cxrdali.models.loss_module import focal_parts

        z, sharper = logits - weights["prior"], self.db_lambda
        return focal_parts(z, self.focal_gamma)[0], focal_parts(sharper * z, self.focal_gamma)[1] / sharper

    def image_weights(self, targets, weights):
        import torch

        # 1 / n of a finding, to the sum of it over the findings that the image has; their mean of 1 cancels out
        ratio = weights["rarity"] / (targets * weights["rarity"]).sum(dim=1, keepdim=True).clamp(min=1e-12)
        return self.db_alpha + torch.sigmoid(self.db_beta * (ratio - self.db_mu))
