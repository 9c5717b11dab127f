"""A network for the benchmark of the synthetic release that one core can train in minutes.

Registered with timm, so that the package's own trainer and predictor take it by name. It looks at pieces of about a
tenth of a 256-pixel picture and keeps, per feature, its mean and its maximum over the picture: a small thing in a large
picture moves a maximum much more than a mean, so it is learnt from few pictures.
"""

import torch
from timm.models import register_model
from torch import nn

NAME = "cxrdali_smallnet"
EMPHASIS = 4.0  # of a pixel's difference from its 5 x 5 neighbourhood, which the network sees beside the picture


class SmallNet(nn.Module):
    """float [B, C, S, S] -> float logits [B, F]."""

    def __init__(self, num_classes: int, width: int = 24):
        super().__init__()
        layers, before = [], 2  # the picture and its detail
        for channels, kernel, stride in ((width, 5, 2), (width, 3, 1), (2 * width, 3, 2), (4 * width, 3, 2)):
            layers += [nn.Conv2d(before, channels, kernel, stride, kernel // 2, bias=False)]
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            before = channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * before, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        gray = images.mean(dim=1, keepdim=True)
        detail = EMPHASIS * (gray - nn.functional.avg_pool2d(gray, 5, 1, 2, count_include_pad=False))
        features = self.features(torch.cat([gray, detail], dim=1))
        return self.head(torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1))


@register_model
def cxrdali_smallnet(pretrained: bool = False, num_classes: int = 1000, **_) -> SmallNet:
    assert not pretrained, "there are no weights to load"
    return SmallNet(num_classes)
