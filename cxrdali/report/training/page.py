"""One self-contained page from run folders, evaluations and the packed dataset they share.

A page is a list of sections. A section is a function from the loaded `Sources` to plain data (None: nothing to show)
and a template of its name, which says what is there and what is missing. So half the runs make a page too, and a new
section is one function, one template and one line in SECTIONS. Pictures of patients are shown only when asked for: the
page may travel further than the data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdali.report.kit import page
from cxrdali.report.study import sections as study
from cxrdali.report.study import table
from cxrdali.report.study.claims import at_a_glance
from cxrdali.report.training.data import contact_sheets, label_frequencies
from cxrdali.report.training.evaluation import evaluation
from cxrdali.report.training.models import models, oversampling
from cxrdali.report.training.provenance import provenance
from cxrdali.report.training.runs import curves, findings, summary, time_spent
from cxrdali.report.training.sources import ReportOptions, Sources, read_sources
from cxrdali.report.training.steps import steps, views
from shards.dataset.dataset import Dataset
from shards.errors import UserError


@dataclass(frozen=True)
class Section:
    """A heading, what it shows, and the template that says it: "training/summary" for summary.html.j2 in there."""

    template: str
    title: str
    data: Callable[[Sources], dict | None]

    @property
    def name(self) -> str:
        return self.template.rpartition("/")[2]

    def shown(self, data: dict | None) -> dict:
        return {"title": self.title, "template": self.template, "data": data}


FREQUENCIES = Section("training/frequencies", "Images per finding", label_frequencies)
IMAGES = Section("training/images", "Training images", contact_sheets)
PROVENANCE = Section("training/provenance", "Provenance", provenance)
SECTIONS = (
    Section("training/summary", "At a glance", summary),
    Section(
        "study/table", "Scores over seeds and folds", lambda sources: sources.table and table.section(sources.table)
    ),
    Section("training/models", "Models", models),
    Section("training/steps", "Average precision step by step", steps),
    Section("training/evaluation", "Evaluation", evaluation),
    Section("training/findings", "Validation: average precision per finding", findings),
    Section("training/views", "Frontal against lateral", views),
    Section("training/curves", "Learning curves", curves),
    FREQUENCIES,
    IMAGES,
    Section("training/oversampling", "Oversampling", oversampling),
    Section("training/seconds", "Where the time went", time_spent),
    PROVENANCE,
)
# of a folder of `cxrdali loss-design`, instead
STUDY_SECTIONS = (
    Section("study/summary", "At a glance", at_a_glance),
    Section("study/models", "Models", study.models),
    Section("study/losses", "Losses", study.losses),
    Section("study/backbones", "Backbones", study.backbones),
    Section("study/retrained", "Retrained classifier", study.retrained),
    Section("study/augmented", "Test-time augmentation", study.augmented),
    Section("study/ensemble", "Ensemble", study.pooled),
    Section("study/calibration", "Calibration", study.calibrations),
    Section("study/thresholds", "Thresholds", study.decisions),
    FREQUENCIES,
    IMAGES,
    Section("study/seconds", "Where the time went", study.time_of_steps),
    PROVENANCE,
)


def write_report(
    out: Path,
    runs: Sequence[Path],
    *,
    pack: Dataset | Path | None = None,
    evaluations: Sequence[Path] = (),
    options: ReportOptions,
) -> Path:
    """Write the page to `out`, and its numbers beside it as .json; return `out`.

    Args:
        runs: run folders, shown in the order given; folders of runs; or one folder of `cxrdali paper` or
            `cxrdali loss-design`, where the files beside its runs are shown too.
        pack: the dataset, or its folder.

    Raises:
        UserError: a folder that is no run, a file that is no evaluation, a dataset that is not that of the runs.
    """
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it, or give another --out")
    page.check_numbers_file(out)
    sources = read_sources(runs, pack, evaluations, options)
    made = [(each, each.data(sources)) for each in (STUDY_SECTIONS if sources.study else SECTIONS)]
    sections = {each.name: each.shown(data) for each, data in made if data is not None}
    data = {
        "title": options.title,
        "runs": [run.name for run in sources.runs],
        "labels": sorted({run.labels for run in sources.runs}),
        "synthetic": sources.options.synthetic,
        "images": options.images,
        "contents": [(name, section["title"]) for name, section in sections.items()],
        "sections": sections,
    }
    return page.write(out, "training/page.html.j2", data)
