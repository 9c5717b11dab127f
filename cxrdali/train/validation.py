"""A run's validation images through the network that is trained, and what they score."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cxrdali.metrics.ranking import Scores
from cxrdali.models.inference import Inference, constant_words, logits
from cxrdali.models.loss_module import bce_sum, known_targets
from cxrdali.train import packs
from cxrdali.train.build import Parts
from cxrdali.train.microbatch import smaller

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validated:
    """logits: float32 [n, F] of the validation images, on rank 0 alone; loss: binary cross-entropy per known target;
    by_pack: scores of each of several packs."""

    logits: np.ndarray | None
    loss: float
    scores: Scores
    by_pack: dict[str, Scores]

    @property
    def columns(self) -> dict[str, float]:
        """Of metrics.csv."""
        scores = self.scores
        return {
            "val_loss": self.loss,
            "mAP": scores.macro_ap,
            "LRAP": scores.lrap,
            "macro_AUROC": scores.macro_auroc,
        }


def validate(parts: Parts, epoch: int, out: Path, check: Callable[[], None]) -> Validated:
    """Score the weights that the model has; called by all ranks.

    Args:
        parts: Of the run.
        epoch: From 0.
        out: The run's folder, for messages.
        check: Called between batches; may raise.

    Raises:
        UserError: A logit that is not finite, or a full GPU.
    """
    values = _logits(parts, epoch, out, check)
    return Validated(values, *parts.ranks.from_first(None if values is None else _scored(parts, values)))


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
    return values if parts.ranks.is_first else None


def _scored(parts: Parts, values: np.ndarray) -> tuple[float, Scores, dict[str, Scores]]:
    data = parts.data
    if words := constant_words(values, data.findings, parts.val_loader)[1]:
        log.info(f"validation: {words}")
    wanted = torch.from_numpy(data.targets[data.val_rows])
    loss = float(bce_sum(torch.from_numpy(values).double(), wanted) / known_targets(wanted))
    return loss, packs.pooled(data, values), packs.by_pack(data, values)
