"""How far a run is, when, and by which command, in words."""

import shlex
import sys
from datetime import datetime
from pathlib import Path

from cxrdali.runs.layout import BEST, PROGRESS
from cxrdali.runs.reader import Run, has_begun, weights_epoch


def reached(run: Run) -> str:
    """Its best epoch, its score and when; that it is not finished, or was a trial; of weights alone their epoch."""
    if not has_begun(run.path):
        return f"epoch {weights_epoch(run.path / BEST)}, written {written(run.path / BEST)}"
    progress, limit = run.progress, run.setting("limit_batches")
    end = "finished" if progress.finished else f"not finished, epoch {progress.epoch} done"
    trial = f"; a trial of --limit-batches {limit}, not a whole training" if limit else ""
    return f"{best(run)}, {end} {written(run.path / PROGRESS)}{trial}"


def best(run: Run) -> str:
    """Its best epoch and the validation score that chose it."""
    progress = run.progress
    score = "" if progress.best_score is None else f", validation {progress.metric} {progress.best_score:.4f}"
    return f"best epoch {progress.best_epoch} of {progress.epochs}{score}"


def written(path: Path) -> str:
    """When a file was written, in local time; "?" if it is not there."""
    return f"{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}" if path.exists() else "?"


def command_line() -> str | None:
    """The command that is running, as a shell reads it; None where Python code calls."""
    program = Path(sys.argv[0])
    ours = program.name == "cxrdali" or program.parts[-2:] == ("cli", "__main__.py")
    return shlex.join(["cxrdali", *sys.argv[1:]]) if ours else None
