"""cxrdali train: one stage, or a recipe."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.folders import FOLDER
from cli.options.gpus import gpus_option, shared_out
from cli.options.settings import GroupedCommand, given_settings, plugins_option, set_option, setting_options
from cli.options.training import dry_run_option, file_option, say_dry_run, train_run


@click.command(cls=GroupedCommand)
@click.option(
    "--stage",
    type=click.IntRange(1, 3),
    help="1: 224 px, batch 256; 2: 320 px, batch 128; 3: 512 px, batch 48. Stage N starts from the best "
    "weights of stage N-1.",
)
@click.option(
    "--recipe",
    metavar="NAME",
    help="Instead of --stage: named settings, model0 to model7 and ld-... of the papers or your own (`cxrdali recipes` "
    "lists them). Options given beside it override its settings.",
)
@file_option
@folders.data_option
@click.option("--out", type=FOLDER, metavar="RUN", help="Run folder.  [default: runs/stageN, or runs/NAME of a recipe]")
@gpus_option
@dry_run_option
@plugins_option
@set_option
@setting_options()
def train(data, out, stage, recipe, file, gpus, dry_run, plugins, assignments, **given):
    """Train one stage, or a recipe. The same command again continues a killed run and does nothing on a finished one.

    SIGTERM, Ctrl-C, a lost terminal (SIGHUP) and a cluster's warning (SIGUSR1, SIGUSR2, SIGXCPU) save first. The run
    folder holds config.json, progress.json, metrics.csv, findings.csv, best.safetensors, val_predictions.parquet,
    seen.parquet, last.pt and TensorBoard events (docs/training.md).
    """
    if (stage is None) == (recipe is None):
        raise click.UsageError("give --stage 1, 2 or 3, or --recipe NAME (`cxrdali recipes` lists them)")
    if file is not None and recipe is None:
        raise click.UsageError("--recipes is a file of recipes: choose one of them with --recipe NAME")

    if shared_out(gpus, given["device"] or "auto"):
        return

    from cxrdali.runs import recipes
    from cxrdali.runs.plugins import load
    from cxrdali.runs.settings import run_folder, settings_of

    for path in plugins:
        load(path)
    asked = given_settings(given, assignments)
    chosen = recipe and recipes.find(recipes.load(file), recipe)
    if out is None:
        out = folders.RUNS / recipe if recipe else run_folder(folders.RUNS, stage)
        click.echo(f"run: {out} (the default)", err=True)
    if chosen:
        settings, about = chosen.resolve(out.parent, asked)
        what, before = f"recipe {recipe}", f"--recipe {chosen.starts_from}"
    else:
        settings, about = settings_of(asked, stage=stage), None
        what, before = f"stage {stage}", f"--stage {stage - 1}"
        if settings.model.init is None and stage > 1:
            settings = settings.changed(init=str(run_folder(out.parent, stage - 1)))
    init, source = settings.model.init, settings.data.oversample_from
    if "init" not in asked and init is not None:
        _check_there(Path(init), out, f"{what} starts from", before, "the initial weights with --init")
    if chosen and "oversample_from" not in asked and source is not None:
        before, otherwise = f"--recipe {chosen.settings['oversample_from']}", "a run or metrics with --oversample-from"
        _check_there(Path(source), out, f"{what} oversamples by the AP of", before, otherwise)
    dataset = folders.open_dataset(data, settings.data.findings, settings.data.same_patients)
    (say_dry_run if dry_run else train_run)(settings, dataset, out, about)


def _check_there(before: Path, out: Path, what: str, command: str, otherwise: str) -> None:
    """Raises UserError if another run that is needed is not there, unless the run continues: it has what it needs."""
    from cxrdali.runs.reader import has_begun
    from shards.errors import UserError

    if not (before.exists() or has_begun(out)):
        raise UserError(
            f"{what} {before}, which does not exist; run `cxrdali train {command}` first, or give {otherwise}"
        )
