"""The layer of the head `ml-decoder`."""

import torch
from torch import nn
from torch.nn import functional

from cxrdali.models.map_head import MapHead

HEADS, HIDDEN, DROPOUT = 8, 2048, 0.1  # as published


class MlDecoderHead(MapHead):
    """A transformer decoder's layer without self-attention, from fixed queries to the places of a map; then a row of
    weights for each finding, on the output of its query (Ridnik et al. 2023).

    groups: queries, each shared by findings that follow one another; None: one for each finding. Beyond its paper's
    form, `group` says which query a finding has, so that findings can be put in another order.
    """

    queries: torch.Tensor
    group: torch.Tensor

    def __init__(self, width: int, num_findings: int, inside: int, groups: int | None):
        super().__init__(width)
        self.places_in = nn.Linear(width, inside)
        self.register_buffer("queries", torch.randn(groups or num_findings, inside))
        if groups:
            self.register_buffer("group", torch.arange(num_findings) * groups // num_findings)
        self.norms = nn.ModuleList(nn.LayerNorm(inside) for _ in range(3))
        self.cross = nn.MultiheadAttention(inside, HEADS, dropout=DROPOUT, batch_first=True)
        self.hidden, self.out = nn.Linear(inside, HIDDEN), nn.Linear(HIDDEN, inside)
        self.weight, self.bias = (
            nn.Parameter(torch.empty(num_findings, inside)),
            nn.Parameter(torch.zeros(num_findings)),
        )
        nn.init.xavier_normal_(self.weight)

    def logits(self, places: torch.Tensor) -> torch.Tensor:
        asked, memory = self._asked(places)
        found = self._with(1, asked, self.cross(asked, memory, memory, need_weights=False)[0])
        found = self._with(2, found, self.out(self._dropped(self.hidden(found).relu())))
        found = found[:, self.group] if hasattr(self, "group") else found
        return (found * self.weight).sum(dim=2) + self.bias

    def attention(self, places: torch.Tensor) -> torch.Tensor:
        """The mean over the layer's attention heads."""
        asked, memory = self._asked(places)
        weights = self.cross(asked, memory, memory)[1]
        return weights[:, self.group] if hasattr(self, "group") else weights

    def _asked(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [B, Q, E] as they look, and what they look at [B, K, E]."""
        queries = self.queries.expand(places.shape[0], -1, -1)
        return self._with(0, queries, queries), self.places_in(places).relu()

    def _with(self, norm: int, values: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        return self.norms[norm](values + self._dropped(added))

    def _dropped(self, values: torch.Tensor) -> torch.Tensor:
        return functional.dropout(values, DROPOUT, self.training)
