"""Several runs: which folders hold them, in which order, and what they are called beside one another."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cxrdali.runs.layout import CONFIG, RECORD, REPLACED
from cxrdali.runs.reader import Run
from shards.errors import UserError


def named(runs: Sequence[Run]) -> list[Run]:
    """Runs by recipe, else by stage, else by folder; the folder too, or its whole path, where several are called so."""
    folders = [run.path.resolve().name for run in runs]
    plain = [_plain_name(run, folder) for run, folder in zip(runs, folders, strict=True)]
    often = Counter(plain)
    names = [
        name if often[name] == 1 or name == folder else f"{name} ({folder})"
        for name, folder in zip(plain, folders, strict=True)
    ]
    still = Counter(names)
    return [
        replace(run, name=name if still[name] == 1 else f"{short} ({run.path})")
        for run, short, name in zip(runs, plain, names, strict=True)
    ]


def _plain_name(run: Run, folder: str) -> str:
    stage = run.setting("stage")
    return run.recipe.get("name") or (folder if stage is None else f"Stage {stage}")


def is_run(path: Path) -> bool:
    return (path / CONFIG).exists()


def run_folders(path: Path) -> tuple[list[Path], list[Path]]:
    """The run folders that `path` stands for (itself, or those in it, model2 before model10), and folders beside
    them that hold no run (yet).

    Raises UserError if it stands for none.
    """
    if is_run(path):
        return [path], []
    inside = path / "runs" if (path / "runs").is_dir() else path
    folders = sorted(
        (
            each
            for each in inside.glob("*")
            if each.is_dir() and not each.name.startswith(".") and each.name != REPLACED
        ),
        key=lambda each: natural(each.name),
    )
    found = [each for each in folders if is_run(each)]
    if not found and not is_paper(path) and not (path / RECORD).exists():
        raise UserError(
            f"{path}: no run (no {CONFIG} in it) and no folder of runs; give a folder that "
            "`cxrdali train`, `cxrdali paper` or `cxrdali loss-design` wrote"
        )
    return found, [each for each in folders if each not in found] if inside != path else []


def is_paper(path: Path) -> bool:
    return not is_run(path) and any((path / name).exists() for name in ("paper.json", "evaluations", "views.json"))


def natural(name: str) -> list:
    """A key to sort by: model2 before model10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
