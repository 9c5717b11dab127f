"""A run's network as other programs get it: from raw pixels to probabilities or logits, in one module."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from cxrdali.models.classifier import Classifier, create
from cxrdali.models.weights import output_keys
from cxrdali.postprocess.calibration_maps import Affine, Map


def plain(model: Classifier, num_findings: int) -> Classifier:
    """A copy in evaluation mode, in float32 and plain layouts, as an exporter can follow it."""
    options = replace(model.options, pretrained=False, checkpointing=False, channels_last=False)
    made = create(options, num_findings)
    made.backbone.load_state_dict(model.backbone.state_dict())
    for head in made.heads:
        del head.forward  # back to its class's own: what keeps it in float32 under autocast cannot be traced
    return made.eval().requires_grad_(False)


def timm_state(model: Classifier) -> dict[str, torch.Tensor]:
    """The tensors by timm's own keys, with the logit scale in the classifier: timm's model has no other place for it."""
    layout = torch.contiguous_format
    state = {key: value.detach().clone(memory_format=layout) for key, value in model.backbone.state_dict().items()}
    for key in output_keys(model):
        state[key] *= model.logit_scale
    return state


class Exported(nn.Module):
    """uint8 [N, 1, S, S], 0 to 255 -> float32 [N, F]: normalised, scaled and calibrated inside."""

    def __init__(self, model: Classifier, maps: Sequence[Map], probabilities: bool):
        super().__init__()
        self.model, self.probabilities = model, probabilities
        self.calibrated = Calibrated(maps) if maps else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.calibrated(self.model(images).float())
        return logits.sigmoid() if self.probabilities else logits


class Calibrated(nn.Module):
    """float32 logits [N, F] -> calibrated ones, by a map per finding (`cxrdali.postprocess.calibration_maps`).

    Both kinds of map in one formula: slope * logit + offset + log p - log q, where p and q = 1 - p are interpolated
    between knots, and are one half each for an affine map. q has knots of its own: 1 - p would lose digits near 1.
    """

    def __init__(self, maps: Sequence[Map]):
        super().__init__()
        rows = [
            (each.slope, each.offset, (0.0,), (0.5,))
            if isinstance(each, Affine)
            else (each.tilt, -each.tilt * each.centre, each.logits, each.probabilities)
            for each in maps
        ]
        slopes, offsets, knots, values = zip(*rows, strict=True)
        self.width = max(map(len, knots))

        def padded(lists: Sequence[Sequence[float]], fill: float) -> torch.Tensor:
            return torch.tensor([[*each, *[fill] * (self.width - len(each))] for each in lists], dtype=torch.float64)

        filled = padded(values, 0.5).flatten()
        buffers = {
            "slope": torch.tensor(slopes), "offset": torch.tensor(offsets), "knots": padded(knots, float("inf")),
            "p": filled, "q": 1 - filled,
        }  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, value.float())
        self.register_buffer("last", torch.tensor([len(each) - 1 for each in knots]))
        self.register_buffer("first", torch.arange(len(knots)) * self.width)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        result = logits * self.slope + self.offset
        if self.width == 1:
            return result
        below = (logits.unsqueeze(-1) >= self.knots).sum(dim=-1)  # knots at or below each logit
        low, high = (below - 1).clamp(min=0) + self.first, torch.minimum(below, self.last) + self.first
        start, end = self.knots.flatten()[low], self.knots.flatten()[high]
        inside = end > start
        share = torch.where(inside, (logits - start) / torch.where(inside, end - start, 1.0), 0.0)
        p, q = (values[low] + share * (values[high] - values[low]) for values in (self.p, self.q))
        return result + torch.log(p) - torch.log(q)
