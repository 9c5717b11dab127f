"""cxrdali read: what a run says of new images, as a page."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.fields import field_options, filled
from cli.options.imports import quick_imports
from cli.options.run_folder import RunFolder
from cxrdali.predict.options import JudgeOptions, ReadOptions
from shards.words import counted


@click.command()
@click.argument("run", type=RunFolder())
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--html",
    "out",
    required=True,
    type=folders.OUTPUT,
    metavar="FILE",
    help="Page to write, .html; the same as data goes beside it as .json.",
)
@field_options(ReadOptions, "study", "top")
@field_options(JudgeOptions, "calibration", "thresholds", "tta", "weights", "device", "precision", "allow_other_run")
def read(run, paths, out, **given):
    """Read new images (files, folders, patterns; JPEG, PNG, DICOM) with a run, and show what it says of each.

    The page has the image as the network saw it, probabilities, thresholds with sensitivity and specificity, heat maps,
    and a warning where an image does not look like those of training, if `cxrdali reference` was called before. It
    holds pictures of patients. It is no diagnosis.
    """
    from cxrdali.predictions import check_writable
    from cxrdali.report.kit.page import check_numbers_file
    from shards.errors import UserError

    if out.suffix != ".html":
        raise click.UsageError(f"--html {out}: the page is a .html")
    check_writable(out)
    check_numbers_file(out)
    judging, reading = filled(JudgeOptions, given), filled(ReadOptions, given)

    with quick_imports():
        from cxrdali.predict.image_files import find
        from cxrdali.predict.judge import Judge
        from cxrdali.predict.new_images import read_files
        from cxrdali.predict.reference import Reference
        from cxrdali.report.reading.page import write_reading
        from cxrdali.runs.reader import Run
        from cxrdali.runtime.limits import cores

    files, trained = find(paths), Run.open(run)
    reference = Reference.load(trained, judging.weights and Path(judging.weights))
    readings, rejected = read_files(Judge.of([trained], judging), reference, files, reading, cores())
    for name, reason in rejected.items():
        click.echo(f"{name}: not read: {reason}", err=True)
    if not readings:
        raise UserError(f"of {counted(len(files), 'file')} none could be read, for the reasons above; give others")
    for each in readings:
        for words in each.warnings:
            click.echo(f"warning: {each.name}: {words}", err=True)
    write_reading(out, readings, rejected)
    click.echo(f"{out}: {counted(len(readings), 'reading')}, {out.stat().st_size / 1e6:.1f} MB")
