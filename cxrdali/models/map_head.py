"""Classifiers that see every place of a backbone's last feature map, not one vector of an image."""

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn


class MapHead(nn.Module):
    """Map [B, D, h, w] or [B, h, w, D], or tokens [B, N, D], -> logits [B, F].

    Tokens without a place (class token, registers) come first, and are left out. width: D; how a backbone lays its
    features out, `attach_map_head` says. logits: of a subclass, float [B, K, D] -> [B, F]; its `attention`, if it has
    any: -> [B, F, K], of sum 1, how much a finding looks at each place.
    """

    logits: Callable[[torch.Tensor], torch.Tensor]
    attention: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, width: int):
        super().__init__()
        self.width, self.prefix, self.channels_last = width, None, False

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.logits(self.places(given))

    def places(self, given: torch.Tensor) -> torch.Tensor:
        """A map or tokens as [B, K, D], row by row. Raises ValueError for one place, or none that is known."""
        found = None
        if given.ndim == 4:
            last = given.shape[3] == self.width and (self.channels_last or given.shape[1] != self.width)
            found = given.flatten(1, 2) if last else given.flatten(2).mT
        elif given.ndim == 3:
            found = given[:, self._prefix(given.shape[1]) :]
        if found is None or found.shape[1] < 2 or found.shape[2] != self.width:
            raise ValueError(f"{list(given.shape[1:])} before its classifier are no map of several places")
        return found

    def _prefix(self, tokens: int) -> int:
        """How many come before those of a square grid, where the backbone does not say it."""
        if self.prefix is not None:
            return self.prefix
        return next((n for n in range(3) if math.isqrt(tokens - n) ** 2 == tokens - n), tokens)


def attach_map_head(backbone: Any, make: Callable[[int], MapHead]) -> None:
    """Put a head, `make` of its D channels, where a timm model, without its pooling, has its classifier; or, where timm
    knows of no such place, behind `forward_features`, instead of all that the model has there."""
    before = backbone.get_classifier()
    sources: tuple = ((before, "in_features"), (before, "in_channels"), (backbone, "head_hidden_size"))
    places = [key for key, each in backbone.named_modules() if any(each is one for one in flat(before))]
    try:
        if len(flat(before)) > 1:
            raise TypeError("several classifiers")
        backbone.reset_classifier(0, "")  # timm's way to unpooled features: they reach the classifier's place
        now = backbone.get_classifier()
        place = next(key for key, each in backbone.named_modules() if key and each is now)
    except Exception:  # of models that pool in any case: each raises its own
        sources, place = (), places[0].partition(".")[0]
    widths = (getattr(owner, name, None) for owner, name in (*sources, (backbone, "num_features")))
    head = make(next(filter(None, widths)))
    head.prefix = getattr(backbone, "num_prefix_tokens", None)
    head.channels_last = str(getattr(backbone, "output_fmt", "NCHW")) == "NHWC"
    owner, _, last = place.rpartition(".")
    setattr(backbone.get_submodule(owner), last, head)
    if not sources:
        for other in {each.partition(".")[0] for each in places} - {place}:
            setattr(backbone, other, nn.Identity())
        backbone.head_place = place  # bound to the backbone: a copy of it has methods of its own
        backbone.get_classifier = MethodType(_only, backbone)
        backbone.forward_head = MethodType(_forward_head, backbone)


def flat(found: Any) -> tuple[nn.Module, ...]:
    """Distilled models have two classifiers, others one for each of their stages."""
    several = isinstance(found, (tuple, list, nn.ModuleList))
    return tuple(each for inner in found for each in flat(inner)) if several else (found,)


def _only(backbone: Any) -> nn.Module:
    return backbone.get_submodule(backbone.head_place)


def _forward_head(backbone: Any, features: Any, pre_logits: bool = False) -> torch.Tensor:
    return features if pre_logits else backbone.get_classifier()(features)
