"""What commands that use a run's weights have in common."""

from pathlib import Path
from typing import Any

import click

from cli.options.fields import Choice
from cxrdali.data.options import SPLITS


class RunFolder(click.Path):
    """A run's folder: who has weights alone is told where they go."""

    def __init__(self):
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if Path(value).is_file():
            self.fail(
                f"{value} is a file; give the folder of the run whose network it is of, and the file beside it with "
                "--weights (predict, explain), or with `cxrdali train --init`"
            )
        return super().convert(value, param, context)


run_option = click.option("--run", required=True, type=RunFolder(), metavar="RUN", help="Run folder.")
split_option = click.option(
    "--split",
    type=Choice(SPLITS),
    default="val",
    show_default=True,
    help="val and train are the run's own fold, dev and test the released splits.",
)
