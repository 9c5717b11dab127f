"""What commands that train a run share: a file of recipes, and training when the settings are known."""

import contextlib
import sys
from pathlib import Path
from typing import NoReturn

import click

from cli.options import next_command
from cli.options.folders import FILE
from cli.options.imports import quick_imports
from shards.words import counted

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


dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what it would take, from a few steps: hours, disk and memory; write nothing."
)


def say_dry_run(settings, dataset, out: Path, recipe: dict | None = None) -> None:
    """What a run into `out` would take. Raises UserError where it would not start."""
    with quick_imports():
        from cxrdali.report.kit.numbers import duration, storage
        from cxrdali.train.dry_run import dry_run

    found = dry_run(settings, dataset, out, recipe)
    if found is None:
        click.echo(f"{out}: is finished; nothing is left to train")
        return
    for each in found.sizes:
        click.echo(_size_words(each, settings))
    if found.later:
        total = sum(each.training_seconds + each.validation_seconds for each in found.sizes)
        click.echo(f"{counted(len(found.sizes), 'size')} in all: {_at_most(settings)}{duration(total)}")
    if found.cached:
        click.echo("features of the frozen backbone are computed once: that is nearly all of the time")
    whose = "of the GPU (torch's; DALI's come on top)" if found.on_gpu else "of this process"
    memory = max(each.memory_bytes for each in found.sizes)
    click.echo(
        f"disk: about {storage(found.disk_bytes)} in {out}, twice as much while it is saved; memory: "
        f"{storage(memory)} {whose} at the peak; nothing was written"
    )


def _at_most(settings) -> str:
    return "at most " if settings.optimizer.patience else "about "


def _size_words(found, settings) -> str:
    """Hours of the epochs of one size, where a schedule has several with the size in front."""
    with quick_imports():
        from cxrdali.report.kit.numbers import duration

    size = f"{found.segment.size} px, batch {found.segment.batch}: " if settings.data.schedule else ""
    left = "" if found.epochs == found.segment.epochs else f" are left of {found.segment.epochs}"
    training, validation = found.training_seconds, found.validation_seconds
    return (
        f"{size}{counted(found.epochs, 'epoch')} of {counted(found.steps_per_epoch, 'step')}{left}, "
        f"{counted(found.steps, 'step')} in all: {_at_most(settings)}{duration(training + validation)} "
        f"({duration(training)} training, {duration(validation)} validation), measured over "
        f"{counted(found.measured, 'step')} of {duration(found.step_seconds)}"
    )


def train_run(settings, dataset, out: Path, recipe: dict | None = None) -> None:
    """Train into `out`, say how it ended and what comes next; after a signal the exit code is its number and 128."""
    from cxrdali.runtime.limits import address_limit

    if limit := address_limit():  # DALI's threads end the process by std::terminate where it is reached
        click.echo(
            f"note: ulimit -v gives this process {limit / 1e9:.1f} GB; if it ends without a word, raise it", err=True
        )
    with quick_imports():
        from cxrdali.runs.reader import Run
        from cxrdali.runs.words import best
        from cxrdali.train.stopping import Stopped
        from cxrdali.train.trainer import train
    try:
        summary = train(settings, dataset, out, recipe=recipe)
    except Stopped as stop:
        end(stop)
    what = "was already finished" if summary.already_finished else "finished"
    click.echo(f"{out}: {what}; {best(Run.open(out))}")
    next_command.after_training(settings, dataset, out)
