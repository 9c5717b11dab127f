"""cxrdali serve: a run on a page of this machine."""

import click

from cli.options.fields import field_options, filled
from cli.options.imports import quick_imports
from cli.options.run_folder import RunFolder
from cxrdali.predict.options import JudgeOptions
from cxrdali.serve.options import ServeOptions


@click.command()
@click.argument("run", type=RunFolder())
@field_options(ServeOptions, "port", "host")
@field_options(JudgeOptions, "calibration", "thresholds", "tta", "weights", "device", "precision", "allow_other_run")
@field_options(ServeOptions, "max_mb", "seconds")
def serve(run, **given):
    """Read images on a page of this machine: drop a file, see what RUN says of it.

    POST /predict takes a file and answers with JSON; /openapi.json describes it. No file is kept.
    """
    options, judging = filled(ServeOptions, given), filled(JudgeOptions, given)

    with quick_imports():
        from cxrdali.runs.reader import Run
        from cxrdali.serve.server import serve

    serve(Run.open(run), options, judging)
