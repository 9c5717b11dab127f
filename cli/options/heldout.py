"""What verbs that learn from a table of held-out predictions have in common."""

from pathlib import Path

import click

labels_option = click.option(
    "--labels", metavar="NAME", help="Label release for --fit.  [default: the run's; of a CSV, the dataset's first]"
)
uncertain_option = click.option(
    "--uncertain",
    type=click.Choice(["negative", "positive", "ignore"]),
    help="What -1 counts as in --fit; blanks are negative, or ignored with ignore.  [default: negative]",
)
folds_option = click.option(
    "--folds",
    type=int,
    metavar="N",
    help="Parts by subject, each judged by what the others teach, for the figures that are shown.  [default: 5]",
)
force_option = click.option(
    "--force", is_flag=True, help="Learn from a split that was trained on (train, all): its figures flatter."
)


def learn(fit, source: Path, method: str, data: Path | None, labels: str | None, **options):
    """Call a library's `fit` on a table, with the labels that it names unless others are given; warn of its gaps."""
    from cli.options import folders
    from cxrdali.postprocess.crossfit import doubtful_split
    from cxrdali.predictions import read

    dataset = folders.open_packed(data)
    release = dataset.labels(labels or read(source).provenance.labels)
    learnt = fit(
        source, dataset, release, method, **{name: value for name, value in options.items() if value is not None}
    )
    if doubtful_split(learnt.made_from):
        click.echo(f"warning: {doubtful_split(learnt.made_from)}", err=True)
    return learnt


def check_json(path: Path, *inputs: Path) -> None:
    """Raises UserError if rules could not be written to `path`, or would replace a file they are made from."""
    from cxrdali.predictions import check_writable
    from shards.errors import UserError

    if path.suffix != ".json":
        raise UserError(f"{path}: rules are written as .json; change the file's suffix")
    check_writable(path)
    if path.resolve() in [each.resolve() for each in inputs]:
        raise UserError(f"{path}: is a file that this one is made from; give another name")


def number(value: float | None, digits: int = 4) -> str:
    """`value` may be None or NaN: "-"."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"
