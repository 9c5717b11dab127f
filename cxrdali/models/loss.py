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
| db | focal at z, focal at lambda * z over lambda, z = x - kappa * log(negatives / n); each times r of image and
finding (Wu et al. 2020) |
| db-reduced | bce of x - margin for positives, all terms times w^0.5; the margin grows with n (CXR-LT 2026's winner) |
| logit-adjustment | bce of x - tau * log(negatives / n) (Menon et al. 2021) |
| apl | (1 - p)^gamma+ * (-log p - a * (1 - p) + b / 2 * (1 - p)^2), asl's (Huang et al. 2023) |
| two-way | softplus of the hardest negatives against the hardest positives, of images, of findings (Kobayashi 2023) |

A target y between 0 and 1 has y times the term of positives and 1 - y times that of negatives; two-way takes none.
w is that of Cui et al. 2019, who have one class an image. The margins of Cao et al. act on cosines: the head `cosine`.
Defaults are those of Sulake 2026, but cb_terms is as Cui et al. have it; its focal loss has no alpha. Free of torch:
methods import it when they compute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdali.registry import Named, Registry
from cxrdali.setting import CAP, Legal, setting
from shards.errors import UserError

Tensor = Any  # torch.Tensor: nothing here imports torch, which takes seconds, not even for its types


@dataclass(frozen=True)
class Loss(Named):
    """Base of a loss: a frozen dataclass of its parameters, with `terms`."""

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

    @property
    def soft(self) -> bool:
        """Whether it takes targets between 0 and 1. What has `parts` does; one with `terms` of its own says so here."""
        return type(self).terms is Loss.terms

    @property
    def couples(self) -> bool:
        """Whether an image's loss depends on other images, so that micro-batches and ranks change it."""
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

    def parts(self, logits: Tensor, weights: Mapping[str, Tensor], epoch: int) -> tuple[Tensor, Tensor]:
        """What a finding costs where it is there, and where it is not: [B, F] each.

        The arguments are those of `terms`.
        """
        raise UserError(f"the loss {self.name!r} is not installed; give the file that defines it with --plugins")

    def terms(self, logits: Tensor, targets: Tensor, weights: Mapping[str, Tensor], epoch: int) -> Tensor:
        """The loss of every finding of every image.

        Args:
            logits: float32 or float64 [B, F], scaled by `logit_scale`.
            targets: [B, F] of the same type, 0 to 1, smoothed; what is ignored is 0 here and left out of the sum.
            weights: What `per_finding` gave, [F] each, of the same type and device.
            epoch: From 0.

        Returns:
            [B, F].
        """
        positive, negative = self.parts(logits, weights, epoch)
        return targets * positive + (1 - targets) * negative

    def image_weights(self, targets: Tensor, weights: Mapping[str, Tensor]) -> Tensor | None:
        """What multiplies an image's terms by which findings it has: [B, 1] or [B, F]; None: nothing does.

        The arguments are those of `terms`, but the targets are not smoothed.
        """
        return None


# ---------------------------------------------------------------- what several losses have

# below 1, its gradient is infinite at p = 0
GAMMA = Legal(lambda value: value == 0 or 1 <= value <= 20, "0, or 1 to 20")


def focal_gamma() -> Any:
    return setting(2.0, "focusing exponent.", GAMMA)


AUTO = "auto"  # of cb_beta: `auto_beta`, by which a run that begins replaces it
_BETA = Legal(lambda beta: beta == AUTO if isinstance(beta, str) else 0 <= beta < 1, f"0 or more, below 1, or {AUTO}")


def cb_beta() -> Any:
    return setting(
        0.9999,
        "beta of the effective number of images (Cui et al.), below 1; auto: (N - 1) / N with N training images.",
        _BETA,
        metavar="FLOAT|auto",
    )


def cb_cap() -> Any:
    return setting(
        50.0,
        "largest weight, in medians of all weights: a finding of few images cannot press down all others; 0: none, as "
        "Cui et al. published.",
        CAP,
        before=0.0,
    )


def auto_beta(images: int) -> float:
    """(N - 1) / N, N being the images of the training split (Cui et al. 2019, section 3)."""
    return (images - 1) / images


def effective_images(positives: np.ndarray, beta: float | str) -> np.ndarray:
    """(1 - beta^n) / (1 - beta) of each finding's n images, and of one where it has none: float64 [F]."""
    if isinstance(beta, str):
        raise UserError(f"cb-beta {beta}: only a run knows its training images, N; give (N - 1) / N here")
    counts = np.maximum(positives, 1).astype(np.float64)
    # expm1 and log1p: 1 - beta^n would lose digits where beta is close to 1
    return -np.expm1(counts * np.log1p(-(1 - beta))) / (1 - beta) if beta > 0 else np.ones(len(counts))


def class_balanced_weights(positives: np.ndarray, beta: float | str, cap: float = 0) -> np.ndarray:
    """The inverse of the effective number of images (Cui et al. 2019), divided by its mean over the findings that have
    positives: float64 [F]. 1 for a finding without positives.

    cap: how many times the median of these findings a weight may be at most, before the division; 0: any.
    """
    present = positives > 0
    if not present.any():
        return np.ones(len(positives))
    weights = 1 / effective_images(positives, beta)
    if cap:
        weights = np.minimum(weights, cap * np.median(weights[present]))
    return np.where(present, weights / weights[present].mean(), 1.0)


def log_odds_against(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """log(negatives / positives) of each finding, none counted as one: float64 [F]; larger for a rarer one."""
    return np.log(np.maximum(negatives, 1) / np.maximum(positives, 1))


LOSSES = Registry("loss", "cxrdali.models.losses", Loss)
