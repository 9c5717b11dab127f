"""One pass of black images through a new network: whether it takes them, and what its classifiers see of them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from cxrdali.models.classifier import Classifier

IMAGES = 2


@dataclass(frozen=True)
class Seen:
    """What a pass found.

    shapes: of what each classifier sees of an image; why: why the output cannot be computed from these vectors alone,
    or ""; single: the first batch normalisation that sees one value of each channel of an image, or "".
    """

    shapes: tuple[torch.Size, ...] = ()
    why: str = "its classifier was not looked at"
    single: str = ""


@torch.no_grad()
def look(model: "Classifier", num_findings: int) -> Seen:
    """Pass black images of the model's size through it, in evaluation mode, on the CPU.

    Weights and torch's generators are afterwards as they were, the model is in training mode. Raises whatever a layer
    raises, and ValueError if the output is no row of logits per image.
    """
    if model.scale.is_meta:
        return Seen()
    images, own, singles = torch.zeros(IMAGES, 1, *[model.options.size] * 2), model.backbone.state_dict(), []
    kept = {key: own[key].clone() for key in model.finding_keys}

    def note(name: str, given: torch.Tensor) -> None:
        singles.extend([name] * (given.numel() == IMAGES * given.shape[1]))

    handles = [
        each.register_forward_pre_hook(lambda _, given, name=name: note(name, given[0]))
        for name, each in model.backbone.named_modules() if isinstance(each, _BatchNorm)
    ]  # fmt: skip
    try:
        with torch.random.fork_rng([]):
            for key in (key for key in kept if own[key].is_floating_point()):
                own[key].uniform_(0.1, 1)  # a new classifier may be all zero, and zeros agree with anything
            model.eval()
            logits, inputs = model.inputs(images)
            if logits.shape != (IMAGES, num_findings):
                raise ValueError(f"its output is {list(logits.shape)} for {IMAGES} images and {num_findings} findings")
            model.seen = Seen(tuple(each.shape[1:] for each in inputs), "", next(iter(singles), ""))
            return replace(model.seen, why=_why_not(model, inputs, logits))
    finally:
        for handle in handles:
            handle.remove()
        for key, value in kept.items():
            own[key].copy_(value)
        model.train()  # forgets, too, what layers keep of their weights in evaluation mode


def _why_not(model: "Classifier", inputs: list[torch.Tensor], logits: torch.Tensor) -> str:
    for shape in model.seen.shapes:
        if shape.numel() != max(shape):
            return f"a classifier of {model.options.arch!r} sees {list(shape)} of an image, not a vector"
    if len(inputs) == len(model.heads):
        again = model.classify(torch.cat([each.flatten(1) for each in inputs], dim=1))
        if torch.allclose(again, logits, rtol=1e-4, atol=1e-5, equal_nan=True):
            return ""
    return f"the output of {model.options.arch!r} is not the mean of its classifiers' outputs"
