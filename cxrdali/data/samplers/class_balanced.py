"""Every class the same share of an epoch, an image's class being its rarest finding."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.data.sampler import Sampler, rarest_count


@dataclass(frozen=True)
class ClassBalanced(Sampler):
    name: ClassVar[str] = "class-balanced"

    def weights(self, targets):
        return rarest_count(targets) ** -1.0
