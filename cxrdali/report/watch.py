"""A terminal's view of runs at this moment: of one run its numbers, of a folder of runs a line each."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cxrdali.report.kit.numbers import NOTHING, count, duration, percent, small, storage
from cxrdali.runs.layout import RECORD, STUDY
from cxrdali.runs.listing import is_run, run_folders
from cxrdali.runs.steps import Book
from cxrdali.runs.watching import FINISHED, KILLED, STOPPED, Watched, is_held, watched
from shards.errors import UserError
from shards.storage.sealed import read_json
from shards.words import counted

NARROW = 72  # columns: with fewer, rate and waiting are left out
COLUMNS = ("run", "is", "epoch", "best", "left", "images/s", "waiting")
SHOWN = ("train_loss", "val_loss", "mAP", "LRAP", "macro_AUROC")  # of the last epoch
ENDED = (KILLED, STOPPED)


def screen(path: Path, width: int) -> tuple[RenderableType, bool]:
    """What there is to see of a run, a folder of runs or a study, and whether all of it is finished.

    Raises UserError if there is no run, or the one that is asked for cannot be read.
    """
    if is_run(path) or is_held(path / ".lock"):
        run = watched(path)
        if run.fault:
            raise UserError(run.fault)
        return _one(run), run.state == FINISHED
    folders, others = run_folders(path)
    begun = [each for each in others if is_held(each / ".lock")]
    found = [watched(each) for each in [*folders, *begun]]
    table = _several(found, width)
    empty = len(others) - len(begun)
    lines = [f"{counted(empty, 'folder')} without a run yet"] if empty else []
    done, planned = _steps(path)
    lines += [f"{done} of {counted(planned, 'step')} of the study done"] if planned else []
    lines += [each.fault for each in found if each.fault]
    finished = all(each.state == FINISHED for each in found) and not others and done == planned
    return Group(table, *map(_plain, lines)), finished


def _steps(path: Path) -> tuple[int, int]:
    """How many steps of a study are done, and how many its record names: none where there is none."""
    for name in (STUDY, RECORD):
        with contextlib.suppress(OSError, ValueError, KeyError):
            steps = read_json(path / name)["steps"]
            return len(Book(path).recorded(steps)[0]), len(steps)
    return 0, 0


def _one(run: Watched) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for name, words in {"run": f"{run.name}: {run.state}", **_facts(run)}.items():
        grid.add_row(name, _plain(words))
    return grid


def _facts(run: Watched) -> dict[str, str]:
    """What is known of a run that can be read, by the words before it."""
    progress, live, last, facts = run.progress, run.live, run.last, {}
    if progress is None:
        return {"next": "it has not begun its first epoch"}
    facts["epoch"] = _epoch(run) + (f" at {run.size} px" if run.size else "")
    if live:
        facts["epoch"] += f", {live.position:,} of {live.of:,} images"
    if run.rate is not None:
        facts["rate"] = f"{run.rate:,.0f} images/s, {percent(run.waiting)} waiting for data"
    if run.seconds_left:
        facts["left"] = duration(run.seconds_left)
    if live and live.gpu_bytes is not None:
        facts["GPU"] = f"{storage(live.gpu_bytes)} at most"
    if last:
        values = ", ".join(f"{name} {small(last[name])}" for name in SHOWN)
        facts["last"] = f"epoch {last['epoch']:.0f}: {values}"
    if progress.best_epoch:
        facts["best"] = f"epoch {progress.best_epoch}, {progress.metric} {small(progress.best_score)}"
    if run.state in ENDED:
        facts["next"] = "the same command continues it"
    return facts


def _several(runs: Sequence[Watched], width: int) -> RenderableType:
    """A line per run."""
    columns = COLUMNS if width >= NARROW else COLUMNS[:-2]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        right = name not in COLUMNS[:2]
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for run in runs:
        best = run.progress.best_score if run.progress else None
        row = (run.name, run.state, _epoch(run), small(best), duration(run.seconds_left or None), count(run.rate))
        table.add_row(*map(_plain, (*row, percent(run.waiting))[: len(columns)]))
    return table


def _epoch(run: Watched) -> str:
    """3 of 30, where the third is in progress or was the last."""
    if run.progress is None:
        return NOTHING
    return f"{run.live.epoch if run.live else run.progress.epoch} of {run.progress.epochs}"


def _plain(words: str) -> Text:
    """Without controls: a name is not to steer the terminal."""
    return Text("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words))
