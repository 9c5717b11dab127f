"""The parts of a training run: schedule and initial weights."""

from pathlib import Path

import torch
from timm.scheduler import CosineLRScheduler

from cxrdali.runs import folder as runs
from cxrdali.runs.settings import TrainSettings


def initial_weights(init: str | None) -> Path | None:
    """The weights file that `--init` names: a run's best weights, or the file itself."""
    if init is None:
        return None
    path = Path(init)
    if not path.is_dir():
        return path
    _, state = runs.finished(path, f"finish it first, or start from what it has with --init {path / runs.BEST}")
    return runs.best_weights(path, state)


def schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up over the first epoch(s), then cosine to min_lr: a function of the step alone.

    A run of no more epochs than the warm-up has no warm-up. The first step's rate is one part of the warm-up,
    not zero: a step at zero is a batch wasted.
    """
    warmup = (
        settings.optimizer.warmup_epochs * steps_per_epoch
        if settings.optimizer.epochs > settings.optimizer.warmup_epochs
        else 0
    )
    return CosineLRScheduler(
        optimizer,
        t_initial=settings.optimizer.epochs * steps_per_epoch - warmup,
        warmup_t=warmup,
        warmup_lr_init=settings.optimizer.lr / (warmup + 1),
        lr_min=settings.optimizer.min_lr,
        warmup_prefix=True,
        t_in_epochs=False,
    )
