"""Between natural and class-balanced: the square root of class-balanced weights."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.data.sampler import Sampler, rarest_count


@dataclass(frozen=True)
class Sqrt(Sampler):
    name: ClassVar[str] = "sqrt"

    def weights(self, targets):
        return rarest_count(targets) ** -0.5
