"""What commands that fit rules to a table of held-out predictions have in common."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.scores import COUNTS_AS
from cxrdali.data.targets import UNCERTAIN

labels_option = click.option(
    "--labels", metavar="NAME", help="Label release for --fit.  [default: the run's; of a CSV, the dataset's first]"
)
uncertain_option = click.option(
    "--uncertain", type=click.Choice(UNCERTAIN), help=f"What -1 counts as in --fit; {COUNTS_AS}  [default: negative]"
)
folds_option = click.option(
    "--folds",
    type=int,
    metavar="N",
    help="Parts by subject, each judged by a fit to the others, for the figures that are shown.  [default: 5]",
)
force_option = click.option(
    "--force", is_flag=True, help="Fit to a split that was trained on (train, all): its figures flatter."
)


def fit_options(**given):
    """FitOptions of the options that were given, and are not None."""
    from cxrdali.postprocess.options import FitOptions

    return FitOptions(**{name: value for name, value in given.items() if value is not None})


def open_for_fit(source: Path, data: Path | None, labels: str | None):
    """The packed dataset, and the labels that a table names unless others are given."""
    from cxrdali.predictions import read

    dataset = folders.open_packed(data)
    return dataset, dataset.labels(labels or read(source).provenance.labels)


def warn_of_split(made_from: dict) -> None:
    """Say on stderr if the rules were fitted to a split from which they flatter."""
    from cxrdali.postprocess.rules import doubtful_split

    if doubtful_split(made_from):
        click.echo(f"warning: {doubtful_split(made_from)}", err=True)


def check_json(path: Path, *inputs: Path) -> None:
    """Raises UserError if rules could not be written to `path`, or would replace a file they are made from."""
    from cxrdali.predictions import check_writable
    from shards.errors import UserError

    if path.suffix != ".json":
        raise UserError(f"{path}: rules are written as .json; change the file's suffix")
    check_writable(path)
    if path.resolve() in [each.resolve() for each in inputs]:
        raise UserError(f"{path}: is a file that this one is made from; give another name")
