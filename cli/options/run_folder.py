"""The folder of a run, as an option. Imports nothing heavy: help of commands without a run's data comes at once."""

from pathlib import Path
from typing import Any

import click


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
