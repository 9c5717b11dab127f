"""What a report is made of: run folders, evaluations and the packed dataset they share, read and checked."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrdali import run as runs_on_disk
from cxrdali.selection import FoldOptions
from shards.errors import DataError
from shards.packed import PackedDataset


@dataclass(frozen=True)
class ReportOptions:
    """synthetic: say near the top that the data is; images: show images of the training set (data-use terms)."""

    title: str
    synthetic: bool = False
    images: bool = False


@dataclass(frozen=True)
class Run:
    """A run folder. metrics and findings are empty tables until its first epoch is complete."""

    name: str
    path: Path
    config: dict
    metrics: pd.DataFrame
    findings: pd.DataFrame

    def setting(self, name: str, otherwise=None):
        value = self.config["settings"].get(name)
        return otherwise if value is None else value

    @property
    def labels(self) -> str | None:
        """The label release's name."""
        return self.config.get("labels", {}).get("name") or self.setting("labels")

    @property
    def fold(self) -> FoldOptions:
        given = {name: self.setting(name) for name in ("fold", "folds", "group") if self.setting(name) is not None}
        return FoldOptions(**given)

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


@dataclass(frozen=True)
class Evaluation:
    name: str
    content: dict


@dataclass(frozen=True)
class Sources:
    """Everything that a section may draw from."""

    runs: list[Run]
    dataset: PackedDataset | None
    evaluations: list[Evaluation]
    options: ReportOptions

    @property
    def trained(self) -> list[Run]:
        """Runs with at least one complete epoch."""
        return [run for run in self.runs if len(run.metrics)]


def read_sources(
    runs: Sequence[Path], pack: Path | None, evaluations: Sequence[Path], options: ReportOptions
) -> Sources:
    """Raises DataError for a folder that is no run, a file that is no evaluation, or a dataset not the runs'."""
    sources = Sources(
        runs=_named([_read_run(Path(path)) for path in runs]),
        dataset=None if pack is None else PackedDataset.open(Path(pack)),
        evaluations=[_read_evaluation(Path(path)) for path in evaluations],
        options=options,
    )
    _check_same_dataset(sources)
    return sources


def _read_run(folder: Path) -> Run:
    """Raises DataError naming file, column and way out if the folder is not a run."""
    config = runs_on_disk.read_config(folder)
    metrics = _read_csv(folder / runs_on_disk.METRICS, runs_on_disk.METRIC_COLUMNS, text=())
    findings = _read_csv(folder / runs_on_disk.FINDINGS, runs_on_disk.FINDING_COLUMNS, text=("finding",))
    return Run(folder.name, folder, config, metrics, findings)


def _read_csv(path: Path, columns: Sequence[str], text: Sequence[str]) -> pd.DataFrame:
    """Numbers in every column but `text`; an empty table if the file is not there yet."""
    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=object if name in text else float) for name in columns})
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a table ({error}); restore it or train again") from error
    for name in columns:
        if name not in table.columns:
            raise DataError(f"{path}: column {name!r} is missing; the run is of another version, train again")
        if name in text:
            continue
        blank = table[name].str.lower().isin(("", "nan"))
        numbers = pd.to_numeric(table[name].mask(blank), errors="coerce")
        wrong = numbers.isna() & ~blank
        if wrong.any():
            raise DataError(
                f"{path}: column {name!r} holds {table.loc[wrong, name].iloc[0]!r}, not a number; restore it"
            )
        table[name] = numbers
    return table


def _read_evaluation(path: Path) -> Evaluation:
    """Raises DataError if the file is not what `cxrdali evaluate` writes."""
    try:
        content = json.loads(path.read_bytes())
        findings = content["all"]["findings"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `cxrdali evaluate` writes one") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path}: not an evaluation ({error}); give a .json that `cxrdali evaluate` wrote") from error
    if not isinstance(findings, list):
        raise DataError(f"{path}: 'findings' is not a list; give a .json that `cxrdali evaluate` wrote")
    name = content.get("run") or Path(content.get("predictions") or path.name).stem
    return Evaluation(f"{name}, {content['split']} split" if content.get("split") else name, content)


def _named(runs: list[Run]) -> list[Run]:
    """Runs by the name of their stage; by folder too where a stage has several, by folder alone without one."""
    often = Counter(run.setting("stage") for run in runs)
    named = []
    for run in runs:
        stage = run.setting("stage")
        name = run.path.resolve().name
        if stage is not None:
            name = f"Stage {stage}" if often[stage] == 1 else f"Stage {stage} ({name})"
        named.append(Run(name, run.path, run.config, run.metrics, run.findings))
    return named


def _check_same_dataset(sources: Sources) -> None:
    """Label counts and pictures of another dataset would stand beside the runs' numbers."""
    for run in sources.runs if sources.dataset else ():
        trained_on = run.config.get("dataset", {}).get("id")
        if trained_on and trained_on != sources.dataset.id:
            raise DataError(
                f"{run.path / runs_on_disk.CONFIG}: trained on dataset {trained_on}, {sources.dataset.root} is "
                f"{sources.dataset.id}; give the dataset of the runs, or leave `--pack` out"
            )
