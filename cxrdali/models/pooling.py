"""How the places of a feature map become the vector that a classifier sees, other than by the network's own way."""

from typing import Any

import torch
from torch import nn

from cxrdali.models.cosine import CosineLinear
from cxrdali.models.map_head import MapHead, attach_map_head, flat

LEAST = 1e-6  # of a value, as published: what is below counts as this


class Gem(nn.Module):
    """float [B, K, D] -> [B, D]: the generalised mean over places, (mean of x^p)^(1/p), with one p that is trained
    (Radenovic et al. 2019)."""

    def __init__(self, p: float):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        kept = places.clamp(min=LEAST)
        most = kept.detach().amax(dim=1, keepdim=True)  # any factor gives the same; this one, no power of 0 or infinity
        return (kept / most).pow(self.p).mean(dim=1).pow(1 / self.p) * most[:, 0]


class Pooled(MapHead):
    """A classifier of vectors behind a pooling: one of POOLS but "own"."""

    def __init__(self, width: int, pool: str, p: float, classifier: nn.Module):
        super().__init__(width)
        self.kind, self.classifier = pool, classifier
        if pool == "gem":
            self.pool = Gem(p)

    def logits(self, places: torch.Tensor) -> torch.Tensor:
        if self.kind == "gem":
            return self.classifier(self.pool(places))
        return self.classifier(places.mean(dim=1) if self.kind == "avg" else places.amax(dim=1))


def attach_pool(backbone: Any, pool: str, p: float, num_findings: int) -> None:
    """Put a pooling before a backbone's classifier: the one it has, if that is one linear layer of so many channels,
    or else a new one."""
    found = flat(backbone.get_classifier())[0]
    kind = CosineLinear if isinstance(found, CosineLinear) else nn.Linear

    def made(width: int) -> Pooled:
        fits = isinstance(found, nn.Linear) and found.in_features == width
        return Pooled(width, pool, p, found if fits else kind(width, num_findings))

    attach_map_head(backbone, made)
