"""Options of evaluating and comparing."""

from dataclasses import dataclass

from cxrdali.data.targets import UNCERTAIN
from shards.errors import UserError


@dataclass(frozen=True)
class ResampleOptions:
    """draws: bootstrap samples of the studies (0: no intervals); level: of the intervals, between 0 and 1; seed: of the
    samples, 0 or more."""

    draws: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self):
        for name in ("draws", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} {getattr(self, name)}: 0 or more")
        if not 0 < self.level < 1:
            raise UserError(f"level {self.level}: between 0 and 1")


@dataclass(frozen=True)
class EvaluateOptions(ResampleOptions):
    """uncertain: what -1 counts as: negative, positive or ignore."""

    uncertain: str = "negative"


@dataclass(frozen=True)
class CompareOptions(ResampleOptions):
    """baseline: name or folder of the run that the others are compared with (None: the first); folds: parts of the
    subjects, for F1's thresholds; uncertain: what -1 counts as (None: as in the runs' training)."""

    baseline: str | None = None
    folds: int = 5
    uncertain: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.folds < 2:
            raise UserError(f"folds {self.folds}: at least 2")
        if self.uncertain not in (None, *UNCERTAIN):
            raise UserError(f"uncertain {self.uncertain!r}: choose one of {', '.join(UNCERTAIN)}")
