"""Learning rates: functions of the step alone, in proportion for every group of parameters."""

import math
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

import torch
from timm.scheduler import CosineLRScheduler

from cxrdali.runs.optimizer import OptimizerSettings
from cxrdali.train.groups import SCALE

RISE, START, END = 0.3, 1 / 25, 1 / 250_000  # of one-cycle: share of the steps, and of the largest rate (torch's)


class _ByEpoch(CosineLRScheduler):
    """After the warm-up, the rate of each epoch's first step holds for the whole epoch."""

    firsts: Sequence[int] = (0,)  # steps with which epochs begin

    def _get_lr(self, t: int) -> list[float]:
        return super()._get_lr(t if t < self.warmup_t else self.firsts[bisect(self.firsts, t) - 1])


class _OneCycle(CosineLRScheduler):
    """Smith & Topin 2018, in the form of torch's OneCycleLR: two cosines. Momentum is not cycled."""

    def _get_lr(self, t: int) -> list[float]:
        top, last = RISE * self.t_initial - 1, self.t_initial - 1
        if t <= top:
            start, end, share = START, 1.0, t / top
        else:
            start, end, share = 1.0, END, min(1.0, (t - top) / max(1.0, last - top))
        scale = end + (start - end) * (1 + math.cos(math.pi * share)) / 2
        return [base * scale for base in self.base_values]


class Rates:
    """The rates of `optimizer`: step_update(step) sets those of a step.

    First a constant one for the head epochs. Then linear warm-up over the next epoch(s) and a cosine to min_lr by step
    or by epoch, or a constant rate, or one-cycle. A run of no more such epochs than the warm-up has no warm-up. The
    first step's rate is above 0: none is wasted. steps: of every epoch; they differ in a run over several sizes.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, how: OptimizerSettings, steps: Sequence[int]):
        self._optimizer, self._head_epochs = optimizer, how.head_epochs
        self._first, rest = sum(steps[: how.head_epochs]), steps[how.head_epochs :]
        self._rate_of_first = how.head_epochs_lr or how.rate_of_head
        cycle = how.lr_schedule == "one-cycle"
        warmup = sum(rest[: how.warmup_epochs]) if len(rest) > how.warmup_epochs and not cycle else 0
        kinds = {"epoch": _ByEpoch, "one-cycle": _OneCycle}
        self._rest = kinds.get(how.lr_schedule, CosineLRScheduler)(
            optimizer,
            t_initial=sum(rest) - warmup,
            warmup_t=warmup,
            warmup_lr_init=how.lr / (warmup + 1),
            lr_min=how.lr if how.lr_schedule == "constant" else how.min_lr,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        self._rest.firsts = [0, *accumulate(rest)]

    def step_update(self, step: int) -> None:
        """step: of the run, from 0."""
        if step < self._first:
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate_of_first
        else:
            self._rest.step_update(step - self._first)

    def rate(self, epoch: int) -> float:
        """Of the step before, in an epoch from 0: of a layer that has the whole rate; in head epochs, the
        classifier's."""
        group = self._optimizer.param_groups[0]
        return group["lr"] if epoch < self._head_epochs else group["lr"] / group.get(SCALE, 1.0)
