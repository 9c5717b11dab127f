"""What a training loss is; each is a file in `cxrdali.models.losses`, found by its name.

Every term belongs to a finding with logit x, probability p = sigmoid(x), in n of the training images:

| name | terms of positives, terms of negatives |
|---|---|
| bce | -log p, -log(1 - p); positive ones times pos_weight |
| focal | (1 - p)^gamma * -log p, p^gamma * -log(1 - p) (Lin et al. 2017); with alpha also balanced |
| cb-focal | focal, all terms of an image times the mean w of its findings, w = (1 - beta) / (1 - beta^n) with mean 1 |
| cb-focal, cb_terms "positives" | focal, positive terms times w of their finding (as in Sulake 2026) |
| asl | (1 - p)^gamma+ * -log p, q^gamma- * -log(1 - q) with q = max(p - clip, 0) (Ridnik et al. 2021) |
| ldam | bce of x - scale * margin for positives, margin proportional to n^(-1/4) (Cao et al. 2019) |
| drw | bce, positive terms times w once drw_epoch epochs are over (Cao et al. 2019) |
| ldam-drw | ldam with the weights of drw |

w is that of Cui et al. 2019, who have one class an image. The margins of Cao et al. act on cosines: the head `cosine`.
Defaults are those of Sulake 2026, but cb_terms is as Cui et al. have it; its focal loss has no alpha. Free of torch:
methods import it when they compute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cxrdali.registry import Named, Registry
from cxrdali.setting import Legal, from_zero_below, setting
from shards.errors import UserError

Tensor = Any  # torch.Tensor: nothing here imports torch, which takes seconds, not even for its types


@dataclass(frozen=True)
class Loss(Named):
    """Base of a loss: a frozen dataclass of its parameters, with `terms`.

    older: parameters that config.json of an older version lacks, as they were then.
    """

    older: ClassVar[dict[str, Any]] = {}

    @property
    def logit_scale(self) -> float:
        """Factor of the classifier's output. It is stored in the model, so prediction applies it as training did."""
        return 1.0

    @property
    def deferred_epochs(self) -> int:
        """Epochs before the loss becomes what it is meant to be; they do not count against a run's patience."""
        return 0

    def reweights(self, epoch: int) -> bool:
        """Whether deferred re-weighting is in force in an epoch, counted from 0."""
        return False

    def per_finding(self, positives: np.ndarray, negatives: np.ndarray) -> dict[str, np.ndarray]:
        """Weights that depend on class counts, computed once and passed to `terms` by name.

        Args:
            positives: int [F], training images with each finding, before any resampling.
            negatives: int [F], training images without it.

        Returns:
            Arrays of float64 [F].
        """
        return {}

    def terms(self, logits: Tensor, targets: Tensor, weights: Mapping[str, Tensor], epoch: int) -> Tensor:
        """The loss of every finding of every image.

        Args:
            logits: float32 or float64 [B, F], scaled by `logit_scale`.
            targets: [B, F] of the same type, 1 or 0; what is ignored is 0 here and left out of the sum.
            weights: What `per_finding` gave, [F] each, of the same type and device.
            epoch: From 0.

        Returns:
            [B, F].
        """
        raise UserError(f"the loss {self.name!r} is not installed; give the file that defines it with --plugins")


# ---------------------------------------------------------------- what several losses have

# below 1, its gradient is infinite at p = 0
GAMMA = Legal(lambda value: value == 0 or 1 <= value <= 20, "0, or 1 to 20")


def focal_gamma() -> Any:
    return setting(2.0, "focusing exponent.", GAMMA)


def cb_beta() -> Any:
    return setting(0.9999, "beta of the effective number of images (Cui et al.), below 1.", from_zero_below(1))


def class_balanced_weights(positives: np.ndarray, beta: float) -> np.ndarray:
    """(1 - beta) / (1 - beta^n), divided by its mean over the findings that have positives: float64 [F].

    The inverse of the effective number of n images (Cui et al. 2019). 1 for a finding without positives.
    """
    present = positives > 0
    if not present.any():
        return np.ones(len(positives))
    counts = np.where(present, positives, 1).astype(np.float64)
    # expm1 and log1p: 1 - beta^n would lose digits where beta is close to 1
    effective = -np.expm1(counts * np.log1p(-(1 - beta))) if beta > 0 else np.ones(len(counts))
    weights = (1 - beta) / effective
    return np.where(present, weights / weights[present].mean(), 1.0)


LOSSES = Registry("loss", "cxrdali.models.losses", Loss)
