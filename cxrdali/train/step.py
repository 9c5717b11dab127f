"""One optimizer step, as the trainer makes it: nothing in it waits for the GPU.

The benchmarks and the search for a micro-batch take the same step, so that what they find is what training does.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from cxrdali.models.loss_module import LossModule, known_targets
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks
from cxrdali.train.ema import Ema


def adamw(
    model: torch.nn.Module, lr: float, weight_decay: float, groups: list[dict[str, Any]] | None = None
) -> torch.optim.AdamW:
    """Over the parameters that are trained, or groups of them (`cxrdali.train.groups`). fused: one kernel, and with
    fp16 it alone skips a bad step unasked."""
    trained = groups or [each for each in model.parameters() if each.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay, fused=True)


def grad_scaler(hardware: Hardware) -> torch.amp.GradScaler:
    """Scales the loss for fp16, and does nothing for the other precisions."""
    return torch.amp.GradScaler(torch.device(hardware.device).type, enabled=hardware.precision == "fp16")


@dataclass
class Step:
    """forward: the model, compiled or not, with several ranks inside DistributedDataParallel; the optimizer is over its
    parameters. clip_norm: what the gradient is shortened to; norm: its norm before that, in the last step. ema: updated
    after every step that is taken. by_hand: gradients go to the other ranks here, since `forward` is the plain model.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    loss: LossModule
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    hardware: Hardware
    ranks: Ranks = field(default_factory=Ranks)
    clip_norm: float | None = None
    ema: Ema | None = None
    by_hand: bool = False
    norm: torch.Tensor | None = None

    def __call__(
        self,
        images: torch.Tensor,
        wanted: torch.Tensor,
        epoch: int,
        micro_batch: int,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Train on a batch, `micro_batch` images at a time; returns its mean loss: a float64 scalar on the device.

        With several ranks each has its share of the batch, and returns its share of the mean.

        images uint8 [B, 1, S, S] (or what `forward` takes), wanted float [B, F] with NaN where ignored, both on the
        device; epoch from 0; weights float [B], how much each row's terms count (None: 1). Raises what
        `cxrdali.runtime.full.is_full` knows for a full GPU.
        """
        known, total = known_targets(wanted, self.ranks.total), 0.0
        parts = images.split(micro_batch)  # of studies: whole ones, so that lengths differ
        sizes = [len(part) for part in parts]
        of_rows = weights.split(sizes) if weights is not None else repeat(None)
        chunks = list(zip(parts, wanted.split(sizes), of_rows, strict=False))
        for number, (chunk, part, own) in enumerate(chunks, 1):
            with self._without_exchange(number < len(chunks)):
                with self.hardware.autocast():
                    output = self.forward(chunk)
                loss = self.loss(output, part, epoch, own) / known
                # the exchange takes the mean over ranks, of what has to be added up
                self.scaler.scale(loss * self.ranks.world).backward()
            total = total + loss.detach()
        self._take()
        self.optimizer.zero_grad(set_to_none=True)
        return total.double()

    def _take(self) -> None:
        """One step along the gradients."""
        trained = [each for group in self.optimizer.param_groups for each in group["params"] if each.grad is not None]
        if self.by_hand:
            self.ranks.to_mean(each.grad for each in trained)
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self.norm = clip_grad_norm_(trained, self.clip_norm)
        scale = self.scaler.get_scale() if self.ema else 1.0  # of fp16; with another precision nothing waits for it
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema and self.scaler.get_scale() >= scale:  # else the step was skipped: a gradient was infinite
            self.ema.update()

    def _without_exchange(self, without: bool) -> contextlib.AbstractContextManager:
        """Gradients go to the other ranks once a step, with the last micro-batch."""
        return (
            self.forward.no_sync()
            if without and self.ranks.world > 1 and not self.by_hand
            else contextlib.nullcontext()
        )
