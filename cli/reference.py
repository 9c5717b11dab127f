"""cxrdali reference: what a run was trained on, for telling new images that do not look like it."""

import click

from cli.options import folders
from cli.options.fields import field_options, filled
from cli.options.imports import quick_imports
from cli.options.run_folder import RunFolder
from cxrdali.predict.options import ReferenceOptions
from shards.words import counted


@click.command()
@click.argument("run", type=RunFolder())
@folders.data_option
@field_options(ReferenceOptions, "images", "batch", "device", "precision", "decode", "threads")
def reference(run, data, **given):
    """Note in a run's folder what its images look like: views, pixels, features of the network.

    `cxrdali read` and `cxrdali serve` then warn of new images that do not look so. The rule is fitted on half of the
    validation patients, and how often it warns without need is measured on the others.
    """
    options = filled(ReferenceOptions, given)
    with quick_imports():
        from cxrdali.predict.reference import fit
        from cxrdali.runs.reader import Run

    made = fit(run, folders.open_dataset(data, run=Run.open(run)), options)
    path = made.save(run)
    click.echo(f"{path}: {counted(made.about['fitted_images'], 'training image')} of {run}")
    click.echo(f"{made.false_alarms}.")
