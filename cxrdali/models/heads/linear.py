"""timm's own classifier: one linear layer (distilled models have two) on the backbone's features."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.head import Head


@dataclass(frozen=True)
class Linear(Head):
    name: ClassVar[str] = "linear"

    def attach(self, backbone, num_findings):
        pass  # timm made it with the backbone
