"""cxrdali explain: what a run looks at, as a gallery of heat maps."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.fields import field_options, filled
from cli.options.imports import quick_imports
from cli.options.runs import run_option, split_option
from cxrdali.predict.options import ExplainOptions, PredictOptions
from shards.words import counted


@click.command()
@run_option
@folders.data_option
@split_option
@field_options(ExplainOptions, "images")
@click.option("--findings", metavar="A,B", help="Findings to show.  [default: all of the run's]")
@field_options(ExplainOptions, "method", "layer")
@click.option(
    "--out",
    required=True,
    type=folders.Output(path_type=Path),
    metavar="PATH",
    help="Page to write, .html; or a folder, made when it is not there, for its explain.html.",
)
@click.option(
    "--synthetic", is_flag=True, help="Say on the page that the images are synthetic, where the data does not say it."
)
@field_options(PredictOptions, "weights", "labels")
@field_options(ExplainOptions, "batch")
@field_options(PredictOptions, "device", "precision", "decode", precision="Of predicting; heat maps: always fp32.")
def explain(run, data, findings, out, synthetic, batch, **given):
    """For each finding, show the positives that a run scores highest and lowest, and the negatives that it scores
    highest, with heat maps: Grad-CAM, or where the run's head looks.

    All splits but val (with --weights, val too) are predicted first. The page holds pictures: data-use terms apply.
    """
    from cxrdali.predictions import check_writable
    from cxrdali.report.kit.page import check_numbers_file

    names = tuple(name.strip() for name in findings.split(",")) if findings is not None else ()
    if findings is not None and not all(names):
        raise click.UsageError(f"--findings '{findings}': names with commas between them, such as \"Mass,Nodule\"")
    if out.suffix not in ("", ".html") and not out.is_dir():
        raise click.UsageError(f"--out {out}: the page is a .html, or a folder")
    if out.suffix == ".html":
        check_writable(out)  # before an hour of work, not after
        check_numbers_file(out)
    else:
        out.mkdir(0o700, parents=True, exist_ok=True)
        out = out / "explain.html"

    options = filled(ExplainOptions, {**given, "batch": batch}, findings=names)

    with quick_imports():
        from cxrdali.predict.explain import explain
        from cxrdali.report.explanation.page import write_gallery
        from cxrdali.runs.reader import Run

    dataset = folders.open_dataset(data, run=Run.open(run))
    found = explain(run, dataset, options, filled(PredictOptions, given))
    if found.without:
        click.echo(f"no positive image in {options.split}, so not shown: {', '.join(found.without)}")
    write_gallery(out, found, synthetic=synthetic or dataset.synthetic)
    click.echo(f"{out}: {counted(len(found.findings), 'finding')}, {out.stat().st_size / 1e6:.1f} MB")
