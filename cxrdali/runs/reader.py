"""Reading what a run left in its folder."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from cxrdali.data.options import FoldOptions
from cxrdali.runs import folder as runs_on_disk
from cxrdali.runs.layout import RECORD, REPLACED
from cxrdali.runs.names import flatten
from cxrdali.runs.settings import TrainSettings
from shards.errors import UserError


@dataclass(frozen=True)
class Run:
    """A run folder. metrics and findings are empty tables until its first epoch is complete."""

    name: str
    path: Path
    config: dict
    metrics: pd.DataFrame
    findings: pd.DataFrame

    def setting(self, name: str, otherwise=None):
        """By flat name; of the loss, the sampler and the head their names."""
        value = flatten(self.config["settings"]).get(name)
        return otherwise if value is None else value

    @property
    def settings(self) -> TrainSettings:
        return TrainSettings.from_json(self.config["settings"])

    @property
    def labels(self) -> str | None:
        """The label release's name."""
        return self.config.get("labels", {}).get("name") or self.setting("labels")

    @property
    def fold(self) -> FoldOptions:
        return self.settings.data

    @property
    def recipe(self) -> dict:
        """name, starts_from, overridden; empty for a plain stage."""
        return self.config.get("recipe") or {}

    @property
    def oversampling(self) -> dict | None:
        """What it doubled: findings, below, from, without_ap, images_doubled, epoch_images."""
        return self.config.get("oversampling")

    @property
    def origin(self) -> str:
        """What it started from, in words: another run's name, a weights file, or neither."""
        if self.setting("init"):
            return self.recipe.get("starts_from") or Path(self.setting("init")).name
        if self.recipe.get("starts_from"):
            return self.recipe["starts_from"]
        return "ImageNet" if self.setting("pretrained", True) else "random weights"

    @property
    def chosen_by(self) -> str:
        """The metric whose highest value makes the best epoch."""
        return "LRAP" if self.setting("select_by") == "lrap" else "mAP"

    @property
    def best_place(self) -> int:
        """The best epoch's place in metrics; the last one if its metric is undefined in all."""
        values = self.metrics[self.chosen_by]
        return len(values) - 1 if values.isna().all() else int(values.argmax())

    @property
    def best(self) -> pd.Series:
        """The best epoch: a row of metrics."""
        return self.metrics.iloc[self.best_place]

    @property
    def best_findings(self) -> pd.DataFrame:
        """The best epoch's findings, indexed by name."""
        return self.findings[self.findings["epoch"] == self.best["epoch"]].set_index("finding")


def _read_run(folder: Path) -> Run:
    """Raises UserError naming file, column and way out if the folder is not a run."""
    config = runs_on_disk.read_config(folder)
    _check_config(folder / runs_on_disk.CONFIG, config)
    metrics = _read_csv(folder / runs_on_disk.METRICS, runs_on_disk.METRIC_COLUMNS, text=())
    findings = _read_csv(folder / runs_on_disk.FINDINGS, runs_on_disk.FINDING_COLUMNS, text=("finding",))
    return Run(folder.name, folder, config, metrics, findings)


def _check_config(path: Path, config: dict) -> None:
    try:
        recipe, oversampling = config.get("recipe"), config.get("oversampling")
        if recipe is not None:
            recipe["name"], dict(recipe.get("overridden") or {})
        if oversampling is not None:
            [*oversampling["findings"], *oversampling["without_ap"]]
            oversampling["images_doubled"] + oversampling["epoch_images"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: recipe or oversampling is not as `cxrdali train` writes it ({error!r}); restore the file"
        ) from error


def _read_csv(path: Path, columns: Sequence[str], text: Sequence[str]) -> pd.DataFrame:
    """Numbers in every column but `text`; an empty table if the file is not there yet."""
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=object if name in text else float) for name in columns})
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a table ({error}); restore it or train again") from error
    for name in columns:
        if name not in table.columns:
            raise UserError(f"{path}: column {name!r} is missing; the run is of another version, train again")
        if name in text:
            continue
        blank = table[name].str.lower().isin(("", "nan"))
        numbers = pd.to_numeric(table[name].mask(blank), errors="coerce")
        wrong = numbers.isna() & ~blank
        if wrong.any():
            raise UserError(
                f"{path}: column {name!r} holds {table.loc[wrong, name].iloc[0]!r}, not a number; restore it"
            )
        table[name] = numbers
    return table


def _named(runs: list[Run]) -> list[Run]:
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
    return (path / runs_on_disk.CONFIG).exists()


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
        key=lambda each: _natural(each.name),
    )
    found = [each for each in folders if is_run(each)]
    if not found and not is_paper(path) and not (path / RECORD).exists():
        raise UserError(
            f"{path}: no run (no {runs_on_disk.CONFIG} in it) and no folder of runs; give a folder that "
            "`cxrdali train`, `cxrdali paper` or `cxrdali loss-design` wrote"
        )
    return found, [each for each in folders if each not in found] if inside != path else []


def is_paper(path: Path) -> bool:
    return not is_run(path) and any((path / name).exists() for name in ("paper.json", "evaluations", "views.json"))


def _natural(name: str) -> list:
    """model2 before model10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
