"""Grad-CAM: which places of an image raise the score of a finding (Selvaraju et al., ICCV 2017, equations 1 and 2).

Captum computes it, where the model's features still have places: at the output of the last module before the pooling.
And attention: which places a head looks at that weighs them.
"""

import math

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import nn

from cxrdali.models.classifier import Classifier
from cxrdali.predict.options import METHODS
from cxrdali.runtime.device import exact_products
from shards.errors import UserError
from shards.words import near


def heat_maps(model: Classifier, layer: str, images: torch.Tensor, findings: torch.Tensor) -> np.ndarray:
    """float32 [B, h, w], 0 and above: how much each place of the layer's output raises a logit, one finding an image.

    images: uint8 [B, 1, S, S], on the model's device; findings: int64 [B], columns of the model. Each channel counts
    by the mean gradient of the logit over its places, so before pooling and a linear classifier the map, with its
    negative places, sums to the logit less the classifier's bias. Computed in evaluation mode, without autocast.
    """
    model.eval()
    module = model.backbone.get_submodule(layer)
    with torch.enable_grad():
        maps = LayerGradCam(model, module).attribute(
            images, findings.to(images.device), relu_attributions=True, attr_dim_summation=True
        )
    return maps.detach()[:, 0].float().cpu().numpy()


@torch.no_grad()
def attention_maps(model: Classifier, images: torch.Tensor, findings: torch.Tensor) -> np.ndarray:
    """float32 [B, h, w], of sum 1: how much the model's head weighs each place of the image for one finding.

    images, findings: as for `heat_maps`. Computed in evaluation mode, without autocast.
    """
    model.eval()
    (head,), (given,) = model.heads, model.inputs(images)[1]
    with exact_products():
        weights = head.attention(head.places(given.float()))
    chosen = weights[torch.arange(len(images)), findings.to(weights.device)]
    side = math.isqrt(chosen.shape[1])
    return chosen.unflatten(1, (side, side)).cpu().numpy()


def check_attention(model: Classifier, method: str) -> None:
    """Raises UserError if the model's head is not the one whose attention is asked for."""
    own = model.options.head.name
    if own != method:
        others = " or ".join(f"--method {each}" for each in METHODS if each in ("grad-cam", own))
        raise UserError(f"method {method}: the run's head is {own}; use {others}")


def map_layer(model: Classifier, size: int, name: str | None = None) -> str:
    """The module of the backbone whose output is its last feature map at `size` pixels; or `name`, if it has a map.

    The last map is what timm's `forward_features` returns. Raises UserError naming layers that have one if that is
    none with places (tokens, or one place), or if `name` is no such layer.
    """
    features, maps = _trace(model, size)
    some = ", ".join(list(maps)[-1:-4:-1])
    if not maps:
        last = str(getattr(model.backbone, "output_fmt", "NCHW")) != "NCHW"
        why = f"no layer's output is a map [channels, height, width] of several places at {size} px"
        raise UserError(
            f"{type(model.backbone).__name__}: {'its maps have their channels last' if last else why}, so there is "
            "nothing to show; explain a run of a convolutional model"
        )
    if name is not None:
        if name not in dict(model.backbone.named_modules()):
            alike = ", ".join(near(name, maps)) or some
            raise UserError(f"layer {name!r}: the model has none of this name; choose another with --layer, as {alike}")
        if name not in maps:
            raise UserError(
                f"layer {name!r}: its output is no map [channels, height, width] of several places at {size} px; "
                f"choose another with --layer, as {some}"
            )
        return name
    # the last of them: the outermost, where containers hand on what their last child returned
    last = next((name for name, output in reversed(maps.items()) if output is features), None)
    if last is None:
        raise UserError(
            f"{type(model.backbone).__name__}: what it hands to its classifier at {size} px, {_shape(features)}, is no "
            f"map of several places, or no module's own output; choose a layer with --layer, as {some}"
        )
    return last


@torch.no_grad()
def _trace(model: Classifier, size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What `forward_features` returns for an image, and the output of every module that has a map, as they ended."""
    model.eval()
    backbone, maps = model.backbone, {}
    if not hasattr(backbone, "forward_features"):
        raise UserError(f"{type(backbone).__name__}: no timm model, so its last feature map cannot be found")

    def keep(name: str):
        def hook(module: nn.Module, given: tuple, output: object) -> None:
            maps.pop(name, None)
            if _is_map(output):
                maps[name] = output

        return hook

    # models whose maps have their channels last say so
    handles = (
        [
            each.register_forward_hook(keep(name))
            for name, each in backbone.named_modules()
            if name and not isinstance(each, nn.Dropout)  # of attention between tokens, which is square too
        ]
        if str(getattr(backbone, "output_fmt", "NCHW")) == "NCHW"
        else []
    )
    try:
        images = torch.zeros(1, 3, size, size, device=model.scale.device)
        features = backbone.forward_features(images.contiguous(memory_format=model.memory_format))
    finally:
        for handle in handles:
            handle.remove()
    return features, maps


def _is_map(output: object) -> bool:
    """[B, C, h, h] of more than one place; attention has four axes too, but no square."""
    return isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] > 1


def _shape(output: object) -> str:
    return " x ".join(map(str, output.shape[1:])) if isinstance(output, torch.Tensor) else type(output).__name__
