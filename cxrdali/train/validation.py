"""A run's validation images through the network that is trained, and what they score."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cxrdali.data.loader import Loader
from cxrdali.metrics.ranking import Scores
from cxrdali.models.inference import Inference, constant_words, logits
from cxrdali.models.loss_module import bce_sum, known_targets
from cxrdali.runs.layout import EMA
from cxrdali.train import packs
from cxrdali.train.build import Parts
from cxrdali.train.features import CachedLoader
from cxrdali.train.microbatch import smaller
from cxrdali.train.selection import TrainingData

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validated:
    """logits: float32 [n, F] of the validation images, on rank 0 alone; loss: binary cross-entropy per known target;
    by_pack: scores of each of several packs; of_view: what metrics.csv says of the view that chooses the best epoch;
    averaged: whether it is of the moving average of weights."""

    logits: np.ndarray | None
    loss: float
    scores: Scores
    by_pack: dict[str, Scores]
    of_view: dict[str, float]
    averaged: bool = False

    @property
    def columns(self) -> dict[str, float]:
        """Of metrics.csv."""
        scores = self.scores
        found = {
            "val_loss": self.loss,
            "mAP": scores.macro_ap,
            "LRAP": scores.lrap,
            "macro_AUROC": scores.macro_auroc,
            **packs.columns(self.by_pack),
            **self.of_view,
        }
        return {f"{EMA}{name}": value for name, value in found.items()} if self.averaged else found


def validate(parts: Parts, epoch: int, out: Path, check: Callable[[], None]) -> list[Validated]:
    """Score the weights that the model has, and their moving average where there is one; called by all ranks.

    Args:
        parts: Of the run.
        epoch: From 0.
        out: The run's folder, for messages.
        check: Called between batches; may raise.

    Returns:
        Of the weights themselves, then of their average.

    Raises:
        UserError: A logit that is not finite, or a full GPU.
    """
    found = [_validated(parts, epoch, out, check, False)]
    if parts.step.ema:
        with parts.step.ema.in_place():
            found.append(_validated(parts, epoch, out, check, True))
    return found


def _validated(parts: Parts, epoch: int, out: Path, check: Callable[[], None], averaged: bool) -> Validated:
    values = _logits(parts, epoch, out, check)
    known = None if values is None else scored(parts.data, parts.val_loader, values)
    return Validated(values, *parts.ranks.from_first(known), averaged)


def _logits(parts: Parts, epoch: int, out: Path, check: Callable[[], None]) -> np.ndarray | None:
    """Of the validation images; None on ranks that do not score."""
    parts.ranks.copy_buffers(parts.model)
    settings = parts.settings
    how = Inference(
        settings.runtime.micro_batch,
        progress=f"validation {epoch + 1}/{settings.optimizer.epochs}",
        check=check,
        ranks=parts.ranks,
        fix=f"lower --lr, with another --out than {out}",
        fix_full=smaller(parts.share, settings.runtime.micro_batch or parts.share),
    )
    values = logits(parts.forward, parts.val_loader, len(parts.data.findings), parts.hardware, how)
    return parts.by_image(values) if parts.ranks.is_first else None


def scored(
    data: TrainingData, loader: Loader | CachedLoader, values: np.ndarray
) -> tuple[float, Scores, dict[str, Scores], dict[str, float]]:
    """Loss, scores, scores by pack and columns of the view that chooses, of the validation images' logits, float32
    [n, F]."""
    if words := constant_words(values, data.findings, loader)[1]:
        log.info(f"validation: {words}")
    wanted = torch.from_numpy(data.targets[data.val_rows])
    loss = float(bce_sum(torch.from_numpy(values).double(), wanted) / known_targets(wanted))
    return loss, packs.pooled(data, values), packs.by_pack(data, values), packs.columns_of_view(data, values)
