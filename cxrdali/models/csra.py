"""The layer of the head `csra`."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from cxrdali.models.map_head import MapHead


class CsraHead(MapHead):
    """Sum over temperatures T of m . mean(x) + share * m . sum_k a_k x_k, and a bias (Zhu & Wu 2021, equations 2 to 6).

    x: places [K, D]; a: softmax over places of T * m . x_k, one at the highest for T infinite; m: [D], of a finding
    and a temperature. own: a is of weights of its own, in the place of m. norm: batch normalisation of x.
    """

    def __init__(
        self, width: int, num_findings: int, share: float, temperatures: Sequence[float], own: bool, norm: bool
    ):
        super().__init__(width)

        def rows() -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(width, num_findings, bias=False) for _ in temperatures)

        self.share, self.temperatures = share, tuple(temperatures)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.classifiers, self.attentions = rows(), rows() if own else None
        self.bias = nn.Parameter(torch.zeros(num_findings))

    def logits(self, places: torch.Tensor) -> torch.Tensor:
        places, total = self._normalised(places), self.bias
        for weights, classifier in zip(self._weights(places), self.classifiers, strict=True):
            scores = classifier(places)
            total = total + scores.mean(dim=1) + self.share * (weights * scores).sum(dim=1)
        return total

    def attention(self, places: torch.Tensor) -> torch.Tensor:
        """The mean over temperatures."""
        return torch.stack(self._weights(self._normalised(places))).mean(dim=0).mT

    def _normalised(self, places: torch.Tensor) -> torch.Tensor:
        return self.norm(places.mT).mT

    def _weights(self, places: torch.Tensor) -> list[torch.Tensor]:
        """Of each temperature: float [B, K, F]."""
        found = []
        for temperature, each in zip(self.temperatures, self.attentions or self.classifiers, strict=True):
            scores = each(places)
            if math.isinf(temperature):
                highest = scores.argmax(dim=1, keepdim=True)
                found.append(torch.zeros_like(scores).scatter(1, highest, 1.0))
            else:
                found.append((temperature * scores).softmax(dim=1))
        return found
