"""Which run started from which, and where each is on an axis of epochs counted from its first ancestor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdali.runs.layout import CONFIG
from cxrdali.runs.reader import Run
from shards.errors import UserError


@dataclass(frozen=True)
class Placed:
    """before: epochs of all its ancestors together; its own curve starts there."""

    run: Run
    parent: Run | None
    before: int


def lineage(runs: Sequence[Run]) -> list[Placed]:
    """In the order given. Raises UserError if a run descends from itself."""
    parents = {id(run): parent(run, runs) for run in runs}
    placed = []
    for run in runs:
        before, seen, ancestor = 0, {id(run)}, parents[id(run)]
        while ancestor is not None:
            if id(ancestor) in seen:
                raise UserError(f"{run.path / CONFIG}: starts from {run.origin}, which starts from it; restore it")
            seen.add(id(ancestor))
            before += len(ancestor.metrics)
            ancestor = parents[id(ancestor)]
        placed.append(Placed(run, parents[id(run)], before))
    return placed


def parent(run: Run, runs: Sequence[Run]) -> Run | None:
    """The run whose weights `run` began with; None if it began with others, or that run is not among `runs`.

    Found by its path, or beside `run` by its folder's name: a folder of runs may have moved.
    """
    init = run.setting("init")
    if init:
        path = Path(init)
        folders = (path, path.parent) if path.suffix else (path,)  # a weights file in a run counts as the run
        for other in runs:
            if any(other.path.resolve() == folder.resolve() for folder in folders):
                return other
        names = {folder.name for folder in folders}
    else:
        names = {run.recipe.get("starts_from")}
    beside = [other for other in runs if other is not run and other.path.resolve().parent == run.path.resolve().parent]
    return next((other for other in beside if other.path.resolve().name in names), None)


def is_line(placed: Sequence[Placed]) -> bool:
    """Whether every run starts where the one before it ends: one line without branches."""
    return all(each.parent is before.run for before, each in zip(placed, placed[1:], strict=False))
