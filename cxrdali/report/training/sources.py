"""What a report is made of: run folders, evaluations and the packed dataset they share, read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxrdali.evaluate.same_images import check_same_dataset
from cxrdali.report.study.folder import Study, is_study, read_study
from cxrdali.report.study.table import read_table
from cxrdali.report.training.folder import Evaluation, PaperFolder, read_evaluation, read_paper
from cxrdali.runs.listing import is_paper, named, run_folders
from cxrdali.runs.reader import Run
from shards.dataset.dataset import Dataset
from shards.dataset.packed import PackedDataset
from shards.errors import UserError


@dataclass(frozen=True)
class ReportOptions:
    """synthetic: say near the top that the data is; images: show images of the training set (data-use terms)."""

    title: str
    synthetic: bool = False
    images: bool = False


@dataclass(frozen=True)
class Sources:
    """Everything that a section can show. unread: folders beside the runs that hold no run; others: runs beside
    a study's that are not of its models (any more); table: a study's numbers, table.json in its folder."""

    runs: list[Run]
    dataset: Dataset | None
    evaluations: list[Evaluation]
    options: ReportOptions
    folder: PaperFolder | None = None
    study: Study | None = None
    table: dict | None = None
    unread: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def trained(self) -> list[Run]:
        """Runs with at least one complete epoch."""
        return [run for run in self.runs if len(run.metrics)]


def read_sources(
    runs: Sequence[Path], pack: Dataset | Path | None, evaluations: Sequence[Path], options: ReportOptions
) -> Sources:
    """`runs`: run folders, folders of runs, or one of `cxrdali paper` or `cxrdali loss-design`.

    Raises UserError for a folder that is none of them, a file that is no evaluation, or a dataset not the runs'.
    """
    studies = [path for path in runs if is_study(path)]
    papers = [path for path in runs if is_paper(path) and path not in studies]
    if len([*papers, *studies]) > 1:
        kind = "paper" if len(papers) > 1 else "loss-design"
        raise UserError(f"{[*papers, *studies][1]}: a second folder of `cxrdali {kind}`; make a report of each")
    study = read_study(studies[0]) if studies else None
    folder = read_paper(papers[0]) if papers else None
    found, unread, others = [], [], []
    for path in runs:
        inside, without = run_folders(path)
        if study and path == study.path:
            others += [each for each in inside if each.name not in study.models]
            inside = [path for name in study.models for path in inside if path.name == name]
        found += inside
        unread += without
    opened = named([Run.open(path) for path in dict.fromkeys(found)])
    dataset = PackedDataset.open(pack) if isinstance(pack, Path) else pack
    scored = [read_evaluation(Path(path)) for path in evaluations]
    said = [*(run.config for run in opened), *(each.content for each in scored)]
    known = [each.synthetic for each in (options, dataset, study, folder) if each] + [
        each.get("synthetic") for each in said
    ]
    options = replace(options, synthetic=any(known))
    if dataset is not None:
        check_same_dataset(opened, dataset)
    table = next((found for path in runs if (found := read_table(path))), None)
    return Sources(opened, dataset, scored, options, folder, study, table, tuple(unread), tuple(others))
