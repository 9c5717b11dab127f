"""What may watch a training run, and stop it, from outside."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cxrdali.train.build import Parts


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step.

    epoch: from 0; position: of the batch's first sample in the epoch, over all processes; lr: of this step; rows: int64
    [B], catalog rows of this process's share of the batch; images: uint8 [B, 1, S, S] as the model saw them (features
    where these are cached); loss: this process's share of the batch's mean loss, a float64 scalar on the device. To
    read it, or images on a GPU, waits for that GPU.
    """

    epoch: int
    position: int
    lr: float
    rows: torch.Tensor
    images: torch.Tensor
    loss: torch.Tensor


@dataclass(frozen=True)
class Hooks:
    """Functions that training calls, in every process that trains; each is optional.

    on_step: after every optimizer step. on_epoch: after an epoch is saved, with its row of metrics.csv. should_stop:
    asked after every step and every validation batch; a signal's number (SIGTERM, say) ends the run as that signal
    would: saved, with `Stopped`; 0 or None goes on. on_parts: before anything of the run is written, with its parts and
    the state that it continues from (what last.pt holds but the weights; None in a run that begins); may raise.
    group: what trackers call the run together with its siblings, as a study's name; None: the folder above its own.
    """

    on_step: Callable[[StepRecord], None] | None = None
    on_epoch: Callable[[dict], None] | None = None
    should_stop: Callable[[], int | None] | None = None
    on_parts: Callable[[Parts, dict | None], None] | None = None
    group: str | None = None
