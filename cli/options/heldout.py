"""What commands that fit rules to a table of held-out predictions have in common."""

from collections.abc import Sequence
from pathlib import Path

import click

from cli.options import folders

labels_option = click.option(
    "--labels", metavar="NAME", help="Label release for --fit.  [default: the run's; of a CSV, the dataset's first]"
)


def check_fit_or_rules(fit: Path | None, rules: Path | None, **of_fit) -> None:
    """Raises click.UsageError unless rules are either fitted or given; of_fit: options that only a fit has."""
    if (fit is None) == (rules is None):
        raise click.UsageError("give one of --fit (predictions to fit to) and --rules (fitted before)")
    wrong = [f"--{name.replace('_', '-')}" for name, value in of_fit.items() if value is not None]
    if rules is not None and wrong:
        raise click.UsageError(f"{wrong[0]} belongs to --fit, not to --rules")


def open_for_fit(source: Path, data: Sequence[Path], labels: str | None, findings: str | None = None):
    """The packed dataset, or several as one, and the labels that a table names unless others are given."""
    from cxrdali.predictions import read

    dataset = folders.open_dataset(data, findings)
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
