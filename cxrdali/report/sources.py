"""What a report is made of: run folders, evaluations and the packed dataset they share, read and checked."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from cxrdali import run as runs_on_disk
from cxrdali.report.folder import PaperFolder, is_paper, read_paper, run_folders
from cxrdali.report.scores import Evaluation, read_evaluation
from cxrdali.report.study_folder import Study, is_study, read_study
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


@dataclass(frozen=True)
class Sources:
    """Everything that a section may draw from. unread: folders beside the runs that hold no run; others: runs beside
    a study's that are not of its models (any more)."""

    runs: list[Run]
    dataset: PackedDataset | None
    evaluations: list[Evaluation]
    options: ReportOptions
    folder: PaperFolder | None = None
    study: Study | None = None
    unread: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def trained(self) -> list[Run]:
        """Runs with at least one complete epoch."""
        return [run for run in self.runs if len(run.metrics)]


def read_sources(
    runs: Sequence[Path], pack: PackedDataset | Path | None, evaluations: Sequence[Path], options: ReportOptions
) -> Sources:
    """`runs`: run folders, folders of runs, or one of `cxrdali paper` or `cxrdali loss-design`.

    Raises DataError for a folder that is none of them, a file that is no evaluation, or a dataset not the runs'.
    """
    studies = [path for path in runs if is_study(path)]
    papers = [path for path in runs if is_paper(path) and path not in studies]
    if len([*papers, *studies]) > 1:
        kind = "paper" if len(papers) > 1 else "loss-design"
        raise DataError(f"{[*papers, *studies][1]}: a second folder of `cxrdali {kind}`; make a report of each")
    study = read_study(studies[0]) if studies else None
    found, unread, others = [], [], []
    for path in runs:
        inside, without = run_folders(path)
        if study and path == study.path:
            others += [each for each in inside if each.name not in study.models]
            inside = [path for name in study.models for path in inside if path.name == name]
        found += inside
        unread += without
    if study:
        options = replace(options, synthetic=options.synthetic or study.synthetic)
    sources = Sources(
        runs=_named([_read_run(path) for path in dict.fromkeys(found)]),
        dataset=PackedDataset.open(pack) if isinstance(pack, Path) else pack,
        evaluations=[read_evaluation(Path(path)) for path in evaluations],
        options=options,
        folder=read_paper(papers[0]) if papers else None,
        study=study,
        unread=tuple(unread),
        others=tuple(others),
    )
    _check_same_dataset(sources)
    return sources


def _read_run(folder: Path) -> Run:
    """Raises DataError naming file, column and way out if the folder is not a run."""
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
        raise DataError(
            f"{path}: recipe or oversampling is not as `cxrdali train` writes it ({error!r}); restore the file"
        ) from error


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


def _check_same_dataset(sources: Sources) -> None:
    """Label counts and pictures of another dataset would stand beside the runs' numbers."""
    for run in sources.runs if sources.dataset else ():
        trained_on = run.config.get("dataset", {}).get("id")
        if trained_on and trained_on != sources.dataset.id:
            raise DataError(
                f"{run.path / runs_on_disk.CONFIG}: trained on dataset {trained_on}, {sources.dataset.root} is "
                f"{sources.dataset.id}; give the dataset of the runs, or leave `--data` out"
            )
