"""Terms that several losses share: tensors [B, F] of logits and of targets that are 1 or 0."""

import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss


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
