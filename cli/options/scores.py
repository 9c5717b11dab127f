"""What commands that score predictions have in common: options of the scores, and numbers in columns."""

import click

from cxrdali.data.targets import UNCERTAIN
from cxrdali.evaluate.options import ResampleOptions

COUNTS_AS = "blanks are negative, or ignored with ignore."
uncertain_option = click.option(
    "--uncertain",
    type=click.Choice(UNCERTAIN),
    default="negative",
    show_default=True,
    help=f"What -1 counts as; {COUNTS_AS}",
)


def resample_options(command):
    """--draws, --level and --seed."""
    for option in (
        click.option("--seed", default=ResampleOptions.seed, show_default=True, help="Seed of the samples."),
        click.option(
            "--level",
            default=ResampleOptions.level,
            show_default=True,
            help="Level of the confidence intervals, 0 to 1.",
        ),
        click.option(
            "--draws",
            default=ResampleOptions.draws,
            show_default=True,
            help="Bootstrap samples of the studies; 0 for no intervals.",
        ),
    ):
        command = option(command)
    return command


def number(value: float | None, digits: int = 3) -> str:
    """`value` may be None or NaN: "-"."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def with_interval(row: dict, name: str) -> str:
    """A number and, where it has one, its interval."""
    return f"{number(row[name])} {interval(row, name)}".rstrip()


def interval(row: dict, name: str) -> str:
    """The interval of the number called `name`; "" where it has none."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
