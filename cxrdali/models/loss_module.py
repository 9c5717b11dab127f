"""A loss on a batch: the mask of ignored targets, precision, and weights of each finding on the device."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

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
        self._names = []
        for name, values in loss.per_finding(positives, negatives).items():
            self._names.append(name)
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
        known = ~torch.isnan(targets)
        x = _wide(logits)
        weights = {name: self.get_buffer(name).to(x.dtype) for name in self._names}
        return self.loss.terms(x, torch.nan_to_num(targets).to(x.dtype), weights, epoch) * known

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, epoch: int) -> torch.Tensor:
        """Summed over every known target: a scalar.

        A sum, so that micro-batches add up to exactly the batch's mean once divided by its known targets.
        """
        return self.terms(logits, targets, epoch).sum()


def bce_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy summed over every known target: a scalar, float64 for float64 logits, else float32.

    Validation's loss for every training loss, so that runs compare.
    """
    known = ~torch.isnan(targets)
    x = _wide(logits)
    wanted = torch.nan_to_num(targets).to(x.dtype)
    return (F.binary_cross_entropy_with_logits(x, wanted, reduction="none") * known).sum()


def known_targets(
    targets: torch.Tensor, total: Callable[[torch.Tensor], torch.Tensor] = lambda count: count
) -> torch.Tensor:
    """How many targets count, at least 1: a scalar on the targets' device (no synchronisation).

    total: adds a scalar up over ranks, whose targets count together.
    """
    return total((~torch.isnan(targets)).sum()).clamp(min=1)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
