"""What commands that train a run share: a file of recipes, and training when the settings are known."""

import contextlib
import sys
from pathlib import Path
from typing import NoReturn

import click

from cli.options.folders import FILE

file_option = click.option(
    "--recipes",
    "file",
    type=FILE,
    metavar="TOML",
    help="Recipes of your own, beside those of the papers. `cxrdali recipes model3` prints one to begin with.",
)


def end(stop) -> NoReturn:
    """Say that a run was stopped, to a terminal that may be gone, and end with the signal's code."""
    with contextlib.suppress(OSError):
        click.echo(str(stop), err=True)
    sys.exit(128 + stop.signal)


def train_run(settings, dataset, out: Path, recipe: dict | None = None) -> None:
    """Train into `out` and say how it ended; after a signal the exit code is its number and 128."""
    from cxrdali.runtime.limits import address_limit

    if limit := address_limit():  # DALI's threads end the process by std::terminate where it is reached
        click.echo(
            f"note: ulimit -v gives this process {limit / 1e9:.1f} GB; if it ends without a word, raise it", err=True
        )
    from cxrdali.train.stopping import Stopped
    from cxrdali.train.trainer import train

    try:
        summary = train(settings, dataset, out, recipe=recipe)
    except Stopped as stop:
        end(stop)
    what, chosen_by = "was already finished" if summary.already_finished else "finished", settings.optimizer.select_by
    click.echo(f"{out}: {what}; best epoch {summary.best_epoch} with {chosen_by} {summary.best_score:.4f}")
