"""One self-contained page from run folders, evaluations and the packed dataset they share.

A page is a list of sections. A section is a function from the loaded `Sources` to HTML: what its data shows, or
a sentence saying what is missing. So half the runs make a page too, and a new section is one function and one
line in SECTIONS. Pictures of patients are drawn only when asked for: the page may travel further than the data.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from cxrdali.report.kit import html as page
from cxrdali.report.kit.html import Html, join, paragraph, sentence
from cxrdali.report.study import sections as study
from cxrdali.report.study.claims import at_a_glance
from cxrdali.report.training.data import contact_sheets, label_frequencies
from cxrdali.report.training.evaluation import evaluation
from cxrdali.report.training.models import models, oversampling
from cxrdali.report.training.provenance import provenance
from cxrdali.report.training.runs import curves, findings, summary, time_spent
from cxrdali.report.training.sources import ReportOptions, Sources, read_sources
from cxrdali.report.training.steps import steps, views
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import write_bytes

SECTIONS: tuple[tuple[str, str, Callable[[Sources], Html | None]], ...] = (
    ("summary", "At a glance", summary),
    ("models", "Models", models),
    ("frequencies", "Images per finding", label_frequencies),
    ("images", "Training images", contact_sheets),
    ("curves", "Learning curves", curves),
    ("steps", "Average precision step by step", steps),
    ("views", "Frontal against lateral", views),
    ("findings", "Average precision per finding", findings),
    ("oversampling", "Oversampling", oversampling),
    ("seconds", "Where the time went", time_spent),
    ("evaluation", "Evaluation", evaluation),
    ("provenance", "Provenance", provenance),
)
# of a folder of `cxrdali loss-design`, instead
STUDY_SECTIONS: tuple[tuple[str, str, Callable[[Sources], Html | None]], ...] = (
    ("summary", "At a glance", at_a_glance),
    ("models", "Models", study.models),
    ("losses", "Losses", study.losses),
    ("backbones", "Backbones", study.backbones),
    ("retrained", "Retrained classifier", study.retrained),
    ("augmented", "Test-time augmentation", study.augmented),
    ("ensemble", "Ensemble", study.pooled),
    ("calibration", "Calibration", study.calibrations),
    ("thresholds", "Thresholds", study.decisions),
    ("frequencies", "Images per finding", label_frequencies),
    ("images", "Training images", contact_sheets),
    ("seconds", "Where the time went", study.time_of_steps),
    ("provenance", "Provenance", provenance),
)
MOST_NAMED = 4  # runs by name in the first line


def write_report(
    out: Path,
    runs: Sequence[Path],
    *,
    pack: PackedDataset | Path | None = None,
    evaluations: Sequence[Path] = (),
    options: ReportOptions,
) -> Path:
    """Write the page to `out` and return it.

    `runs`: run folders, shown in the order given; folders of runs; or one folder of `cxrdali paper` or
    `cxrdali loss-design`, where all that stands beside its runs is shown too. pack: the dataset, or its folder.

    Raises UserError for a folder that is no run, a file that is no evaluation, or a dataset that is not the runs'.
    """
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it, or give another --out")
    sources = read_sources(runs, pack, evaluations, options)
    write_bytes(out, _render(sources).encode())
    return out


def _render(sources: Sources) -> Html:
    sections = STUDY_SECTIONS if sources.study else SECTIONS
    shown = [(anchor, title, function(sources)) for anchor, title, function in sections]
    shown = [(anchor, title, content) for anchor, title, content in shown if content]
    header = join(_header(sources), page.navigation({anchor: title for anchor, title, _ in shown}))
    *main, last = [page.section(anchor, title, content) for anchor, title, content in shown]
    return page.document(sources.options.title, header, join(*main), last)


def _header(sources: Sources) -> Html:
    options = sources.options
    parts = [Html(f"<h1>{page.safe(options.title)}</h1>"), paragraph(_what_this_is(sources), "soft")]
    if options.synthetic:
        parts.append(
            page.notice(
                "Synthetic data.",
                "All images and labels behind this page were generated. They belong to nobody, "
                "and no number here says anything about patients or about a method's accuracy on them.",
            )
        )
    elif options.images:
        parts.append(page.medical_images("the training set"))
    return join(*parts)


def _what_this_is(sources: Sources) -> str:
    labels = sorted({str(run.labels) for run in sources.runs if run.labels})
    text = "Training report of a long-tail, multi-label chest X-ray classifier"
    if sources.runs:
        names = sentence([run.name.replace("Stage", "stage") for run in sources.runs])
        names = names if len(sources.runs) <= MOST_NAMED else f"{len(sources.runs)} runs"
        text += f": {names}" + (f", trained on the {sentence(labels)} labels" if labels else "")
    return text + "."
