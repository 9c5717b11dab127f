"""What commands that use a run's weights have in common."""

import click

from cli.options.fields import Choice
from cli.options.run_folder import RunFolder
from cxrdali.data.options import SPLITS

run_option = click.option("--run", required=True, type=RunFolder(), metavar="RUN", help="Run folder.")
split_option = click.option(
    "--split",
    type=Choice(SPLITS),
    default="val",
    show_default=True,
    help="val and train are the run's own fold, dev and test the released splits.",
)
