"""From natural in the first epoch to class-balanced in the last (Kang et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.data.samplers.class_balanced import ClassBalanced


@dataclass(frozen=True)
class Progressive(ClassBalanced):
    name: ClassVar[str] = "progressive"

    def weighted_share(self, epoch, epochs):
        return epoch / max(1, epochs - 1)
