"""LDAM's margins with deferred re-weighting (Cao et al. 2019)."""

from dataclasses import dataclass
from typing import ClassVar

from cxrdali.models.losses.drw import Drw
from cxrdali.models.losses.ldam import Ldam


@dataclass(frozen=True)
class LdamDrw(Drw, Ldam):
    name: ClassVar[str] = "ldam-drw"

    def per_finding(self, positives, negatives):
        return {**Ldam.per_finding(self, positives, negatives), **Drw.per_finding(self, positives, negatives)}

    def parts(self, logits, weights, epoch):
        return self._reweighted(Ldam.parts(self, logits, weights, epoch), weights, epoch)
