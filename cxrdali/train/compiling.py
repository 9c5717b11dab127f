"""torch.compile of a run's model: for one shape, and before the first step, on images made up here.

So no step of the training pays for it, and none is changed by it: weights, statistics and torch's generators are
afterwards as they were before.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import nn

from cxrdali.models.classifier import Classifier
from cxrdali.runtime.compiler import compile_errors, missing_compiler
from cxrdali.runtime.distributed import Ranks
from cxrdali.runtime.full import is_full
from cxrdali.runtime.options import AUTO
from cxrdali.train.microbatch import Trial, untouched
from cxrdali.train.step import Step, adamw, grad_scaler
from shards.errors import UserError

log = logging.getLogger(__name__)

STEPS, WARM_UP = 20, 2  # timed steps of the model as it is and compiled, each after so many that do not count


class Static(nn.Module):
    """`plain`, compiled for batches of `trained` images with gradients and of `evaluated` ones without. Others, the
    last of a validation, go through `plain` itself, so nothing is compiled again. A model's classifiers stay outside of
    the graph: they compute in fp32 whatever is set (`exact_products`)."""

    def __init__(self, plain: nn.Module, trained: int, evaluated: int):
        super().__init__()
        for head in (head for each in plain.modules() if isinstance(each, Classifier) for head in each.heads):
            whole: Any = head.forward  # bound again: a copy of the model computes with its own classifier
            head.forward = MethodType(torch.compiler.disable(whole.__func__), head)  # type: ignore[method-assign]
        self.plain, self.compiled = plain, torch.compile(plain, dynamic=False)
        self.images, self.no_sync = {True: trained, False: evaluated}, getattr(plain, "no_sync", None)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        whole = len(images) == self.images[torch.is_grad_enabled()]
        return (self.compiled if whole else self.plain)(images)


@dataclass(frozen=True)
class Arranged:
    """forward: what a step calls; on: whether it is compiled; measured: what config.json keeps of --compile auto;
    seconds: of compiling and measuring."""

    forward: nn.Module
    on: bool = False
    measured: dict[str, Any] | None = None
    seconds: float = 0.0


def pays(plain: float, compiled: float, compiling: float, steps: int) -> bool:
    """Whether compiling wins its own time back: seconds of a step as it is and compiled, of compiling, steps left."""
    return (plain - compiled) * steps > compiling


def arrange(trial: Trial, forward: nn.Module, steps: int, stored: dict[str, Any] | None = None) -> Arranged:
    """`forward`, the trial's model as a step calls it, compiled if the settings say so, or if that pays.

    trial: with a resolved micro-batch; steps: that are left; stored: what was measured when the run began, which holds.
    Raises UserError if it was asked for and torch cannot compile here.
    """
    asked, started, made, measured = trial.settings.runtime.compile, time.perf_counter(), None, None
    if asked == AUTO:
        if lacking := missing_compiler(trial.hardware.device):
            log.info(f"compile auto: off, for it needs {lacking[0]}; {lacking[1]}")
        else:
            measured, made = (stored, None) if stored else _measured(trial, steps)
        asked = trial.ranks.least(int(measured is not None and measured["on"]))
        measured = measured and {**measured, "on": bool(asked)}  # what all do, and will do when the run continues
    if asked and (made is None or trial.ranks.world > 1):  # it was measured without the other ranks
        made = _static(trial, forward)
        with untouched(trial.model, trial.hardware), compile_errors():
            _compile(trial, made)
    return Arranged(made if asked and made else forward, bool(asked), measured, time.perf_counter() - started)


def _measured(trial: Trial, steps: int) -> tuple[dict[str, Any], Static | None]:
    """Whether it pays to compile the model, and the seconds that say so; and the compiled one, if it does."""
    trial = replace(trial, ranks=Ranks())
    with untouched(trial.model, trial.hardware):
        plain = _step_seconds(trial, trial.model)
        try:
            with compile_errors():
                began, made = time.perf_counter(), _static(trial, trial.model)
                _compile(trial, made)
                compiling = time.perf_counter() - began
                compiled = _step_seconds(trial, made)
        except (UserError, RuntimeError, MemoryError) as error:
            if not isinstance(error, UserError) and not is_full(error):
                raise
            log.info(f"compile auto: off: {str(error).splitlines()[0]}")
            return {"on": False}, None
    on = pays(plain, compiled, compiling, steps)
    log.info(
        f"compile auto: {'on' if on else 'off'}: a step takes {1000 * compiled:,.1f} ms compiled and "
        f"{1000 * plain:,.1f} ms as it is; compiling took {compiling:.1f} s, and {steps:,} steps are left"
    )
    seconds = {"plain_seconds": plain, "compiled_seconds": compiled, "compile_seconds": compiling}
    return {"on": on, **seconds, "steps": steps}, made if on else None


def _static(trial: Trial, forward: nn.Module) -> Static:
    given = trial.settings.runtime.micro_batch
    return Static(forward, given or trial.shape.images, given or trial.settings.optimizer.batch)


def _compile(trial: Trial, made: Static) -> None:
    """A step, and a batch of validation if there is a whole one."""
    _stepping(trial, made)()
    trial.model.eval()
    images, size = made.images[False], trial.shape.size
    if len(trial.loaders[1].rows) >= images:
        with torch.inference_mode(), trial.hardware.autocast():
            made(torch.zeros(images, 1, size, size, dtype=torch.uint8, device=trial.hardware.device))
    trial.hardware.synchronize()


def _step_seconds(trial: Trial, forward: nn.Module) -> float:
    step = _stepping(trial, forward)
    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            trial.hardware.synchronize()
            began = time.perf_counter()
        step()
    trial.hardware.synchronize()
    return (time.perf_counter() - began) / STEPS


def _stepping(trial: Trial, forward: nn.Module) -> Callable[[], object]:
    """What takes a step on made-up images, at a rate of 0."""
    shape, device, hardware = trial.shape, trial.hardware.device, trial.hardware
    trial.model.to_train(trial.settings.model.frozen)
    images = torch.randint(0, 256, (shape.images, 1, shape.size, shape.size), dtype=torch.uint8, device=device)
    wanted = torch.zeros(shape.images, shape.num_findings, device=device)
    step = Step(forward, trial.loss, adamw(trial.model, 0.0, 0.0), grad_scaler(hardware), hardware, trial.ranks)
    return lambda: step(images, wanted, 0, trial.settings.runtime.micro_batch or shape.images)
