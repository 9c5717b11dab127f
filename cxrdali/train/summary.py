"""What a call of `train` gives back."""

import math
from dataclasses import dataclass
from pathlib import Path

from cxrdali.runs.progress import Progress

SPENT = ("setup", "training", "waiting", "validation", "compiling", "saving")


@dataclass(frozen=True)
class RunSummary:
    """epochs: finished ones; best_epoch from 1; best_score by the run's own choice (mAP or LRAP), NaN if undefined.

    seconds: of this call, by the names in SPENT and "total". "training" excludes waiting for data and compiling; with
    --compile, "compiling" is a step and a validation batch on images made up, before the first one; auto adds 40 steps.
    """

    out: Path
    epochs: int
    best_epoch: int
    best_score: float
    already_finished: bool
    seconds: dict[str, float]


def summary_of(out: Path, progress: Progress, seconds: dict[str, float], already_finished: bool = False) -> RunSummary:
    best = math.nan if progress.best_score is None else progress.best_score
    spent = {**dict.fromkeys(SPENT, 0.0), **seconds}
    return RunSummary(out, progress.epoch, progress.best_epoch, best, already_finished, spent)
