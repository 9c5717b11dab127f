"""How far a run is: its progress.json."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from cxrdali.runs import layout
from cxrdali.runs.settings import TrainSettings
from cxrdali.setting import strict_converter
from shards.errors import UserError
from shards.storage.sealed import read_json

RESTORE = "restore it, or train the run again into another folder"


@dataclass(frozen=True)
class Progress:
    """How far a run is: what progress.json says.

    epoch: finished ones, of `epochs`; finished: whether none is left, also where the run's patience ended it;
    best_epoch: from 1, 0 before the first; best_score: its value of `metric` (`layout.chosen_by`), None where
    undefined; checksums: of files that readers open, by name (none in a run of an older version); weights: whether the
    best ones are an epoch's own or their moving average.
    """

    epoch: int
    epochs: int
    finished: bool
    best_epoch: int
    best_score: float | None
    metric: str
    checksums: dict[str, str] = field(default_factory=dict)
    weights: str = layout.RAW

    @classmethod
    def of(
        cls, epoch: int, best_epoch: int, best_score: float | None, settings: TrainSettings, packs: bool = False
    ) -> "Progress":
        """packs: whether it trains on several. The backbone after head epochs, deferred re-weighting and the last size
        of a schedule get their chance: epochs before them do not count against the patience."""
        how, last = settings.optimizer, settings.segments[-1]
        without_better = epoch - max(best_epoch, how.head_epochs, settings.loss.deferred_epochs, last.start)
        finished = epoch >= how.epochs or (how.patience is not None and without_better >= how.patience)
        known = best_score if best_score is not None and math.isfinite(best_score) else None
        metric = layout.chosen_by(how.select_by, how.select_pack, packs, how.select_view)
        return cls(epoch, how.epochs, finished, best_epoch, known, metric)


def read_progress(path: Path) -> Progress:
    """Raises FileNotFoundError, and UserError if it was not written by the trainer."""
    try:
        return strict_converter().structure(read_json(path), Progress)
    except FileNotFoundError:
        raise
    except Exception as error:  # cattrs has many
        raise UserError(f"{path}: not as `cxrdali train` writes it ({error}); {how_to_mend(path.parent)}") from error


def how_to_mend(run: Path) -> str:
    """How to get back what follows from last.pt."""
    if (run / layout.LAST).exists():
        return "run the same `cxrdali train` once, which writes it anew"
    return RESTORE
