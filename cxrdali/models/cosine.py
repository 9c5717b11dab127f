"""The layer of the head `cosine`."""

import torch
from torch import nn
from torch.nn import functional as F


class CosineLinear(nn.Linear):
    """float [..., D] -> [..., F], -1 to 1: the cosine of the input and each row of the weights."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(F.normalize(input, dim=-1), F.normalize(self.weight, dim=-1))
