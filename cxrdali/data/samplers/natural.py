"""Every training image once an epoch."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.data.sampler import Sampler


@dataclass(frozen=True)
class Natural(Sampler):
    name: ClassVar[str] = "natural"

    def weights(self, targets):
        return None
