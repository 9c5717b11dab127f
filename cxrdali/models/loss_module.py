"""A loss on a batch: the mask of ignored targets, precision, weights of each finding on the device, shared terms."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from cxrdali.models.loss import Loss


class LossModule(nn.Module):
    """A loss with the training split's class counts.

    Args:
        loss: One of `cxrdali.models.loss.LOSSES`.
        positives: int [F], training images with each finding, before any resampling.
        negatives: int [F], training images without it.
    """

    def __init__(self, loss: Loss, positives: np.ndarray, negatives: np.ndarray):
        super().__init__()
        self.loss = loss
        for name, values in loss.per_finding(positives, negatives).items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)  # float64: cast where it is used

    def reweights(self, epoch: int) -> bool:
        """Whether deferred re-weighting is in force in an epoch, counted from 0."""
        return self.loss.reweights(epoch)

    def terms(self, logits: torch.Tensor, targets: torch.Tensor, epoch: int) -> torch.Tensor:
        """[B, F], 0 where the target is ignored; in float32 at least, whatever the logits' precision.

        Args:
            logits: float [B, F], scaled by the model (`Loss.logit_scale`).
            targets: float [B, F] with 1, 0 and NaN (ignored).
            epoch: From 0.
        """
        x = _wide(logits)
        weights = {name: each.to(x.dtype) for name, each in self.named_buffers()}
        return self.loss.terms(x, torch.nan_to_num(targets).to(x.dtype), weights, epoch) * ~torch.isnan(targets)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, epoch: int) -> torch.Tensor:
        """Summed over every known target: a scalar.

        A sum, so that micro-batches add up to exactly the batch's mean once divided by its known targets.
        """
        return self.terms(logits, targets, epoch).sum()


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


# ---------------------------------------------------------------- terms that several losses share: tensors [B, F]


def bce_terms(
    x: torch.Tensor, wanted: torch.Tensor, shift: torch.Tensor | None = None, pos_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy; shift [F] is taken off the logits of positives, pos_weight [F] multiplies their terms."""
    shifted = x if shift is None else x - shift * wanted
    return F.binary_cross_entropy_with_logits(shifted, wanted, pos_weight=pos_weight, reduction="none")


def focal_terms(x: torch.Tensor, wanted: torch.Tensor, gamma: float, alpha: float = -1) -> torch.Tensor:
    """Lin et al. 2017; alpha: weight of positive terms, 0 to 1, or -1 for none."""
    return sigmoid_focal_loss(x, wanted, alpha, gamma, reduction="none")


def weigh_positives(terms: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Positive terms times weights [F]."""
    return terms * torch.where(wanted == 1, weights, 1)


def weigh_images(terms: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """All terms of an image times the mean of weights [F] over its findings; 1 for an image without any."""
    number = wanted.sum(dim=1, keepdim=True)
    return terms * torch.where(number > 0, (wanted * weights).sum(dim=1, keepdim=True) / number.clamp(min=1), 1)
