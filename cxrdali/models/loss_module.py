"""A loss on a batch: the mask of ignored targets, precision, weights of each finding on the device, shared terms."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from cxrdali.models.loss import Loss

LOWEST = -1e9  # a logit that adds nothing to a sum of exponentials, and is finite in fp32


class LossModule(nn.Module):
    """A loss with the training split's class counts.

    Args:
        loss: One of `cxrdali.models.loss.LOSSES`.
        positives: int [F], training images with each finding, before any resampling.
        negatives: int [F], training images without it.
        smoothing: A target y becomes y * (1 - smoothing) + smoothing / 2; 0 to below 1.
    """

    def __init__(self, loss: Loss, positives: np.ndarray, negatives: np.ndarray, smoothing: float = 0.0):
        super().__init__()
        self.loss, self.smoothing = loss, smoothing
        for name, values in loss.per_finding(positives, negatives).items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)  # float64: cast where it is used

    def reweights(self, epoch: int) -> bool:
        """Whether deferred re-weighting is in force in an epoch, counted from 0."""
        return self.loss.reweights(epoch)

    def terms(self, logits: torch.Tensor, targets: torch.Tensor, epoch: int) -> torch.Tensor:
        """[B, F], 0 where the target is ignored; in float32 at least, whatever the logits' precision.

        Args:
            logits: float [B, F], scaled by the model (`Loss.logit_scale`).
            targets: float [B, F], 0 to 1 and NaN (ignored).
            epoch: From 0.
        """
        x, unknown = _wide(logits), torch.isnan(targets)
        if self.loss.couples:  # such a finding is no rival of others
            x = x.masked_fill(unknown, LOWEST)
        weights = {name: each.to(x.dtype) for name, each in self.named_buffers()}
        wanted = torch.nan_to_num(targets).to(x.dtype)
        smoothed = wanted * (1 - self.smoothing) + self.smoothing / 2 if self.smoothing else wanted
        terms = self.loss.terms(x, smoothed, weights, epoch)
        of_images = self.loss.image_weights(wanted, weights)
        return (terms if of_images is None else terms * of_images) * ~unknown

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, epoch: int, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Summed over every known target: a scalar. weights: float [B], of each row's terms (None: 1).

        A sum, so that micro-batches add up to exactly the batch's mean once divided by its known targets.
        """
        terms = self.terms(logits, targets, epoch)
        return (terms if weights is None else terms * weights[:, None]).sum()


def bce_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy summed over every known target: a scalar, float64 for float64 logits, else float32.

    Validation's loss for every training loss, so that runs compare.
    """
    x = _wide(logits)
    return (bce_terms(x, torch.nan_to_num(targets).to(x.dtype)) * ~torch.isnan(targets)).sum()


def known_targets(
    targets: torch.Tensor, total: Callable[[torch.Tensor], torch.Tensor] = lambda count: count
) -> torch.Tensor:
    """How many targets count, at least 1: a scalar on the targets' device (no synchronisation).

    total: adds a scalar up over ranks, whose targets count together.
    """
    return total((~torch.isnan(targets)).sum()).clamp(min=1)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


# ---------------------------------------------------------------- what several losses share: tensors [B, F]


def bce_terms(x: torch.Tensor, wanted: torch.Tensor, pos_weight: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross-entropy; pos_weight [F] multiplies the terms of positives."""
    return F.binary_cross_entropy_with_logits(x, wanted, pos_weight=pos_weight, reduction="none")


def bce_parts(x: torch.Tensor, shift: torch.Tensor | float = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p and -log(1 - p), as `Loss.parts`; shift [F] is taken off the logits of positives."""
    return -F.logsigmoid(x - shift), -F.logsigmoid(-x)


def focal_parts(x: torch.Tensor, gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Lin et al. 2017 without alpha, as `Loss.parts`."""
    positive, negative = bce_parts(x)
    return torch.sigmoid(-x) ** gamma * positive, torch.sigmoid(x) ** gamma * negative
