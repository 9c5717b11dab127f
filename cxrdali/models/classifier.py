"""A timm classifier that takes what the loader yields: uint8 [B, 1, S, S].

Normalisation is the model's first step, on its device and in its precision: the loader stays a quarter of the
size, and a checkpoint's numbers cannot be fed with pixels scaled for another one.
"""

import sys
from pathlib import Path
from types import MethodType
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from cxrdali.models.options import ModelOptions
from cxrdali.models.weights import first_line, resampled
from shards.errors import UserError
from shards.words import near


class Classifier(nn.Module):
    """uint8 [B, 1, S, S], 0..255 -> float32 logits [B, F]. `backbone` is the timm model with its own keys.

    The classifier at its end computes in float32 also under autocast: in bf16, thousands of images would share a logit.
    """

    backbone: Any  # timm's models share methods, not a type
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        norm: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        logit_scale: float = 1.0,
        channels_last: bool = True,
    ):
        super().__init__()
        self.backbone, self.norm, self.logit_scale = backbone, norm, logit_scale
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        for head in self.heads:
            head.forward = MethodType(_wide, head)  # bound: a copy of the model computes with its own classifier
        scale = 1 / (255 * torch.tensor(std)).view(1, 3, 1, 1)
        shift = -(torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1)
        # not persistent: a checkpoint holds timm's keys alone
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalised = images.to(self.scale.dtype) * self.scale + self.shift  # one channel broadcasts to three
        return self._scaled(self.backbone(normalised.contiguous(memory_format=self.memory_format)))

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """The backbone's classifiers; distilled models have two, whose mean is the output."""
        found = self.backbone.get_classifier()
        return tuple(found) if isinstance(found, (tuple, list)) else (found,)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifier sees of uint8 [B, 1, S, S]: float [B, D]. In evaluation mode,
        `classify(features(images))` is `forward(images)`."""
        seen: list[torch.Tensor] = []
        handle = self.heads[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        try:
            self(images)
        finally:
            handle.remove()
        return seen[0]

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """float [B, D] -> float32 logits [B, F]."""
        return self._scaled(torch.stack([head(features) for head in self.heads]).mean(dim=0))

    def _scaled(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.logit_scale == 1 else logits * self.logit_scale


def _wide(head: nn.Module, features: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    """A classifier's forward, outside of autocast and from float32."""
    with torch.autocast(features.device.type, enabled=False):
        return type(head).forward(head, features.float(), *arguments, **options)


def check_arch(arch: str) -> None:
    """Raises UserError, with names that are alike, if timm has no such model."""
    if not timm.is_model(arch.split(".")[0]):
        known = timm.list_models()
        alike = near(arch.split(".")[0], known) or near(arch.split(".")[0].split("_")[0], known)
        raise UserError(f"arch {arch!r} is no timm model (alike: {', '.join(alike) or 'none'}); see timm.list_models()")


def create(options: ModelOptions, num_findings: int) -> Classifier:
    """A classifier on the CPU.

    Args:
        options: Architecture, image size and what else decides its form.
        num_findings: Width of its output.

    Raises:
        UserError: timm has no such model, its weights cannot be had, or it cannot be built for this image size.
    """
    check_arch(options.arch)
    backbone = _backbone(options, num_findings)
    options.head.attach(backbone, num_findings)
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if options.norm == "weights":
        mean, std = tuple(backbone.pretrained_cfg["mean"]), tuple(backbone.pretrained_cfg["std"])
    made = Classifier(backbone, options.norm, mean, std, options.logit_scale, options.channels_last)
    return made.to(memory_format=made.memory_format)


def _backbone(options: ModelOptions, num_findings: int) -> Any:
    """The timm model with its linear classifier."""
    arguments: dict[str, Any] = {"pretrained": options.pretrained, "num_classes": num_findings, "in_chans": 3}
    try:
        config = timm.get_pretrained_cfg(options.arch, allow_unregistered=True)
        if config is not None and config.fixed_input_size:
            arguments["img_size"] = options.size  # timm resamples most position embeddings to it
        if config is not None and "img_size" in arguments and options.pretrained and not _has_filter(options.arch):
            # it would load attention biases of another size as they are, and fail
            own = timm.create_model(options.arch, **{**arguments, "img_size": config.input_size[-1]})
            backbone = timm.create_model(options.arch, **{**arguments, "pretrained": False})
            backbone.load_state_dict(resampled(backbone, own.state_dict(), Path(options.arch)))
        else:
            backbone = timm.create_model(options.arch, **arguments)
        if options.checkpointing:
            _checkpoint(backbone, options.arch)
    except UserError:
        raise
    except Exception as error:  # timm and its hub raise their own kinds for a missing network, file or tag
        if options.pretrained:
            raise UserError(
                f"weights of {options.arch!r} cannot be had ({first_line(error)}); download them where there is a "
                "network (they are cached), give a file with --init, or train from scratch with --no-pretrained"
            ) from error
        raise UserError(f"{options.arch!r} cannot be built for {options.size} px ({first_line(error)})") from error
    return backbone


def _has_filter(arch: str) -> bool:
    """Whether timm's file of this model has what fits weights to another image size."""
    entrypoint = timm.models.model_entrypoint(arch.split(".")[0])
    return hasattr(sys.modules[entrypoint.__module__], "checkpoint_filter_fn")


def _checkpoint(backbone: Any, arch: str) -> None:
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise UserError(f"{arch!r} has no gradient checkpointing; use --micro-batch instead") from error
