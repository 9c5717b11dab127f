"""Fusions: of the features of a study's images, however many there are, one vector.

Every image's features get a learned vector of its view (frontal, lateral, unknown) added, which begins at 0; mean and
transformer then begin at the mean of the features, which for a linear classifier is the mean of the images' logits.
Places without an image are masked.
"""

import torch
from torch import nn

from cxrdali.data.studies import VIEWS, StudyBatch
from cxrdali.models.fusion_options import HEADS, StudyOptions


class Fusion(nn.Module):
    """Features float [N, D] of a batch's N images -> float32 [B, D] of its B studies: here their mean."""

    def __init__(self, width: int):
        super().__init__()
        self.of_view = nn.Parameter(torch.zeros(len(VIEWS) + 1, width))

    def forward(self, features: torch.Tensor, batch: StudyBatch) -> torch.Tensor:
        seen = features.float() + self.of_view[batch.views]
        study, place = batch.places()
        study, place = study.to(seen.device), place.to(seen.device)
        shape = len(batch), int(batch.offsets.diff().max())
        there = torch.zeros(shape, dtype=torch.bool, device=seen.device)
        there[study, place] = True
        images = torch.zeros(*shape, seen.shape[1], device=seen.device)
        images[study, place] = seen
        return self.fused(images, there)

    def fused(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """images: float32 [B, M, D], 0 where there is none; there: bool [B, M]."""
        return images.sum(dim=1) / there.sum(dim=1, keepdim=True)


class Maximum(Fusion):
    """Of each feature the largest among the images."""

    def fused(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        return images.masked_fill(~there[..., None], -torch.inf).amax(dim=1)


class GatedAttention(Fusion):
    """Ilse et al. 2018, "Attention-based Deep Multiple Instance Learning", equation 9: the mean with weights
    softmax_k(w . (tanh(V h_k) * sigmoid(U h_k)))."""

    def __init__(self, width: int, inside: int):
        super().__init__(width)
        self.content, self.gate = nn.Linear(width, inside), nn.Linear(width, inside)
        self.weight = nn.Linear(inside, 1, bias=False)  # a bias would be the same for all images

    def fused(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        scores = self.weight(torch.tanh(self.content(images)) * torch.sigmoid(self.gate(images)))
        weights = scores.float().masked_fill(~there[..., None], -torch.inf).softmax(dim=1)
        return (weights * images).sum(dim=1)


class Transformer(Fusion):
    """The mean of what layers of self-attention over a study's images add to the features; at first they add 0."""

    def __init__(self, width: int, how: StudyOptions):
        super().__init__(width)
        inside = how.fusion_width
        self.into, self.back = nn.Linear(width, inside), nn.Linear(inside, width)
        nn.init.zeros_(self.back.weight)
        nn.init.zeros_(self.back.bias)
        layer = nn.TransformerEncoderLayer(
            inside, HEADS, 4 * inside, how.fusion_dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, how.fusion_layers, nn.LayerNorm(inside), enable_nested_tensor=False)

    def fused(self, images: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        tokens = self.layers(self.into(images), src_key_padding_mask=~there)
        return super().fused((images + self.back(tokens).float()) * there[..., None], there)


def fusion_of(how: StudyOptions, width: int) -> Fusion:
    """width: D, numbers of an image."""
    if how.fusion == "transformer":
        return Transformer(width, how)
    if how.fusion == "attention":
        return GatedAttention(width, how.fusion_width)
    return {"mean": Fusion, "max": Maximum}[how.fusion](width)
