"""Cosine of the angle between an image's features and a finding's weights (Cao et al. 2019): no length, no bias."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.head import Head
from shards.errors import UserError


@dataclass(frozen=True)
class Cosine(Head):
    """In the place of each linear classifier of the network. The scale is the loss's: `Loss.logit_scale`."""

    name: ClassVar[str] = "cosine"
    bounded: ClassVar[bool] = True
    scales: ClassVar[bool] = False

    def attach(self, backbone, num_findings):
        from torch import nn

        from cxrdali.models.cosine import CosineLinear

        found = backbone.get_classifier()
        heads = {id(each) for each in (found if isinstance(found, tuple | list | nn.ModuleList) else (found,))}
        places = [(name, each) for name, each in backbone.named_modules() if id(each) in heads]
        if len(places) < len(heads) or not all(name and isinstance(each, nn.Linear) for name, each in places):
            raise UserError(
                f"head cosine: the classifier of {type(backbone).__name__} is no plain linear layer; use --head "
                "linear, or another --arch"
            )
        for name, each in places:
            owner, _, last = name.rpartition(".")
            setattr(backbone.get_submodule(owner), last, CosineLinear(each.in_features, num_findings))
