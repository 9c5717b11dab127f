"""Losses on logits. Targets are float [B, F] with 1, 0 and NaN (ignored).

| name | terms of a finding with logit x, probability p = sigmoid(x), in n of the training images |
|---|---|
| bce | -log p, -log(1 - p); positive ones times pos_weight |
| focal | (1 - p)^gamma * -log p, p^gamma * -log(1 - p) (Lin et al. 2017); with alpha also balanced |
| cb-focal | focal, positive terms times (1 - beta) / (1 - beta^n), mean 1 over findings (Cui et al. 2019) |
| asl | (1 - p)^gamma+ * -log p, q^gamma- * -log(1 - q) with q = max(p - clip, 0) (Ridnik et al. 2021) |
| ldam | bce of x - scale * margin for positives, margin proportional to n^(-1/4) (Cao et al. 2019) |
| drw | bce, from epoch drw_epoch on with cb-focal's weights on positive terms (Cao et al. 2019) |
| ldam-drw | ldam with the weights of drw |

The margin losses' scale multiplies the classifier's output in the model (`ModelOptions.logit_scale`): x is scaled
already, here and wherever a logit of the run is read. Defaults are those of Sulake 2026; its focal loss has no alpha.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from shards.errors import UserError

POSITIVE_WEIGHTS = ("none", "sqrt", "ratio")
# loss -> its parameters and their defaults
LOSSES: dict[str, dict[str, object]] = {
    "bce": {"pos_weight": "none"},
    "focal": {"focal_gamma": 2.0, "focal_alpha": -1.0},
    "cb-focal": {"focal_gamma": 2.0, "cb_beta": 0.9999},
    "asl": {"asl_gamma_neg": 4.0, "asl_gamma_pos": 1.0, "asl_clip": 0.05},
    "ldam": {"ldam_margin": 0.5, "ldam_scale": 30.0},
    "drw": {"cb_beta": 0.9999, "drw_epoch": 10},
    "ldam-drw": {"ldam_margin": 0.5, "ldam_scale": 30.0, "cb_beta": 0.9999, "drw_epoch": 10},
}
PARAMETERS = tuple(dict.fromkeys(name for parameters in LOSSES.values() for name in parameters))
# parameter -> whether a value is right, and the words for it
_GAMMA = (lambda value: value == 0 or 1 <= value <= 20, "0, or 1 to 20")  # below 1, its gradient is infinite at p = 0
_RANGES = {
    "pos_weight": (lambda value: value in POSITIVE_WEIGHTS, f"one of {', '.join(POSITIVE_WEIGHTS)}"),
    "focal_gamma": _GAMMA,
    "focal_alpha": (lambda value: value == -1 or 0 <= value <= 1, "0 to 1, or -1 for none"),
    "cb_beta": (lambda value: 0 <= value < 1, "0 or more, below 1"),
    "asl_gamma_neg": _GAMMA,
    "asl_gamma_pos": _GAMMA,
    "asl_clip": (lambda value: 0 <= value < 1, "0 or more, below 1"),
    "ldam_margin": (lambda value: 0 < value <= 10, "above 0, at most 10"),
    "ldam_scale": (lambda value: 0 < value <= 1000, "above 0, at most 1000"),
    "drw_epoch": (lambda value: value >= 0, "0 or more epochs"),
}


def resolved(loss: str, given: Mapping[str, object]) -> dict[str, object]:
    """A loss's parameters, those that are not given (None) at their defaults; all other parameters None.

    Raises UserError for an unknown loss, a parameter that the loss does not have, or one out of its range.
    """
    if loss not in LOSSES:
        raise UserError(f"loss {loss!r}: choose one of {', '.join(LOSSES)}")
    own = LOSSES[loss]
    for name, value in given.items():
        if value is None:
            continue
        word = name.replace("_", "-")
        if name not in own:
            has = ", ".join(each.replace("_", "-") for each in own)
            raise UserError(f"{word} {value}: the loss {loss} has no such parameter; it has {has}")
        fits, words = _RANGES[name]
        if not fits(value):
            raise UserError(f"{word} {value!r}: {words}")
    return {name: own.get(name) if given.get(name) is None else given[name] for name in PARAMETERS}


# ---------------------------------------------------------------- per finding, from training counts


def positive_weights(positives: np.ndarray, negatives: np.ndarray, kind: str) -> np.ndarray:
    """negatives / positives of each finding ("ratio"), its square root ("sqrt"), or 1 ("none"): float64 [F].

    1 for a finding without positives, whose weight no term has, or without negatives, which would weigh nothing.
    """
    ratio = np.where((positives > 0) & (negatives > 0), negatives / np.maximum(positives, 1), 1.0)
    return {"none": np.ones(len(positives)), "sqrt": np.sqrt(ratio), "ratio": ratio}[kind]


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


def margins(positives: np.ndarray, largest: float) -> np.ndarray:
    """`largest` for the rarest finding, n^(-1/4) times a constant for the others: float64 [F] (Cao et al. 2019).

    0 for a finding without positives: only positives have a margin.
    """
    present = positives > 0
    if not present.any():
        return np.zeros(len(positives))
    falling = np.where(present, positives, 1).astype(np.float64) ** -0.25
    return np.where(present, largest * falling / falling[present].max(), 0.0)


# ---------------------------------------------------------------- terms, float [B, F]


def asymmetric_terms(
    logits: torch.Tensor, targets: torch.Tensor, gamma_neg: float, gamma_pos: float, clip: float
) -> torch.Tensor:
    """Ridnik et al. 2021 from logits, in their precision; targets 1 or 0.

    timm's has the same formula, but cuts probabilities off at 1e-8: a positive with a logit under -18 then has no
    gradient. What stays is the formula's own: with clip, that of a negative vanishes as its probability nears 1.
    """
    positive = -F.logsigmoid(logits)
    if gamma_pos:
        positive = positive * torch.sigmoid(-logits) ** gamma_pos
    shifted = (torch.sigmoid(logits) - clip).clamp(min=0)
    # 1 - q = min(1 - p + clip, 1); without clip, log(1 - p) from the logit, which does not underflow
    negative = -torch.log((torch.sigmoid(-logits) + clip).clamp(max=1)) if clip else -F.logsigmoid(-logits)
    if gamma_neg:
        negative = negative * shifted**gamma_neg
    return torch.where(targets == 1, positive, negative)


class Loss(nn.Module):
    """One of LOSSES with its parameters and the training split's counts.

    positives, negatives: int [F], training images with and without each finding, before any resampling.
    """

    def __init__(self, name: str, parameters: Mapping[str, object], positives: np.ndarray, negatives: np.ndarray):
        super().__init__()
        self.name, self.own = name, {key: value for key, value in parameters.items() if value is not None}
        own = self.own
        self.drw_epoch = own.get("drw_epoch")
        per_finding = {
            "pos_weight": positive_weights(positives, negatives, own.get("pos_weight", "none")),
            "balance": class_balanced_weights(positives, own.get("cb_beta", 0.0)),
            "shift": own.get("ldam_scale", 0.0) * margins(positives, own.get("ldam_margin", 0.0)),
        }
        for key, values in per_finding.items():
            self.register_buffer(key, torch.from_numpy(values), persistent=False)  # float64: cast where it is used

    def reweights(self, epoch: int) -> bool:
        """Whether deferred re-weighting is in force in an epoch, counted from 0."""
        return self.drw_epoch is not None and epoch >= self.drw_epoch

    def terms(self, logits: torch.Tensor, targets: torch.Tensor, epoch: int) -> torch.Tensor:
        """[B, F], 0 where the target is ignored; in float32 at least, whatever the logits' precision."""
        known = ~torch.isnan(targets)
        x = logits if logits.dtype == torch.float64 else logits.float()
        wanted = torch.nan_to_num(targets).to(x.dtype)
        p = self.own
        if self.name in ("focal", "cb-focal"):
            found = sigmoid_focal_loss(x, wanted, p.get("focal_alpha", -1), p["focal_gamma"], reduction="none")
        elif self.name == "asl":
            found = asymmetric_terms(x, wanted, p["asl_gamma_neg"], p["asl_gamma_pos"], p["asl_clip"])
        else:
            # one expression for bce, ldam and drw: the shift is 0 and the weight 1 where a loss has none
            found = F.binary_cross_entropy_with_logits(
                x - self.shift.to(x.dtype) * wanted, wanted, pos_weight=self.pos_weight.to(x.dtype), reduction="none"
            )
        if self.name == "cb-focal" or self.reweights(epoch):
            found = found * torch.where(wanted == 1, self.balance.to(x.dtype), 1)
        return found * known

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
    wide = logits if logits.dtype == torch.float64 else logits.float()
    wanted = torch.nan_to_num(targets).to(wide.dtype)
    return (F.binary_cross_entropy_with_logits(wide, wanted, reduction="none") * known).sum()


def known_targets(
    targets: torch.Tensor, total: Callable[[torch.Tensor], torch.Tensor] = lambda count: count
) -> torch.Tensor:
    """How many targets count, at least 1: a scalar on the targets' device (no synchronisation).

    total: adds a scalar up over ranks, whose targets count together.
    """
    return total((~torch.isnan(targets)).sum()).clamp(min=1)
