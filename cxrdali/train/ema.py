"""An exponential moving average of a run's weights, by timm's ModelEmaV3: a second candidate for the best weights.

It is of what is trained and, unless the backbone is frozen, of the buffers: statistics of batch normalisation are
averaged as the weights are; whole numbers are copied. It costs one more copy of these, on the model's device.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from cxrdali.models.classifier import Classifier
from cxrdali.models.weights import resampled
from cxrdali.runs.optimizer import OptimizerSettings

DOT = "/"  # in names of a module's own tensors, which may hold no dot


class _Averaged(nn.Module):
    """The tensors of a backbone that are averaged, themselves and not copies."""

    def __init__(self, backbone: nn.Module, frozen: bool):
        super().__init__()
        for name, value in backbone.named_parameters():
            if value.requires_grad:
                self.register_parameter(name.replace(".", DOT), value)
        own = backbone.state_dict()
        for name, value in [] if frozen else backbone.named_buffers():
            self.register_buffer(name.replace(".", DOT), value, persistent=name in own)


class Ema:
    """The average of a model's weights; `updates`: how many steps it has seen."""

    def __init__(self, model: Classifier, how: OptimizerSettings, frozen: bool):
        self._backbone, self._of = model.backbone, _Averaged(model.backbone, frozen)
        self._kept = ModelEmaV3(self._of, decay=how.ema_decay, use_warmup=how.ema_warmup)
        self.updates = 0

    def update(self) -> None:
        """After a step. The first takes the weights as they are."""
        self.updates += 1
        self._kept.update(self._of, step=self.updates)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the model has the averaged weights: compiled, and in several processes, it is the same model."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        kept = self._kept.module.state_dict()
        for name, value in self._of.state_dict().items():  # one at a time: no third copy of all
            before = value.clone()
            value.copy_(kept[name])
            kept[name].copy_(before)

    def weights(self) -> dict[str, torch.Tensor]:
        """The backbone's state, with the averages in it, also under second names of a tensor (CoaT has such)."""
        kept = self._kept.module.state_dict()
        averaged = {id(value): kept[name] for name, value in self._of.state_dict(keep_vars=True).items()}
        own = self._backbone.state_dict(keep_vars=True)
        return {name: averaged.get(id(value), value.detach()) for name, value in own.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self._kept.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        kept = {name.replace(DOT, "."): value for name, value in state["average"].items()}
        fitted = resampled(self._backbone, kept)  # a schedule may have changed the size
        self._kept.module.load_state_dict({name.replace(".", DOT): value for name, value in fitted.items()})
