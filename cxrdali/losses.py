"""Losses on logits. Targets are float [B, F] with 1, 0 and NaN (ignored)."""

import torch
from torch.nn import functional as F


def bce_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy summed over every known target, in float32: a scalar.

    A sum, so that micro-batches add up to exactly the batch's mean once divided by its known targets.
    """
    known = ~torch.isnan(targets)
    loss = F.binary_cross_entropy_with_logits(logits.float(), torch.nan_to_num(targets), reduction="none")
    return (loss * known).sum()


def known_targets(targets: torch.Tensor) -> torch.Tensor:
    """How many targets count, at least 1: a scalar on the targets' device (no synchronisation)."""
    return (~torch.isnan(targets)).sum().clamp(min=1)
