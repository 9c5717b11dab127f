"""cxrdali retrain-head: cRT, the classifier of a finished run anew, on balanced samples."""

import click

from cli.options import folders
from cli.options.fields import Choice
from cli.options.folders import FOLDER
from cli.options.settings import GroupedCommand, given_settings, plugins_option, set_option, setting_options
from cli.options.training import dry_run_option, say_dry_run, train_run

SETTINGS = (
    "seed", "sampler", "loss", "batch", "epochs", "warmup_epochs", "lr", "weight_decay", "clip_norm", "ema",
    "ema_half_life", "ema_warmup", "keep_epochs", "patience", "device", "precision",
    "micro_batch", "decode", "threads", "cache_features", "allow_leak", "track",
    "track_paths",
)  # fmt: skip
THE_RUN_S = dict.fromkeys(("seed", "batch", "weight_decay", "clip_norm", "precision", "decode"), "the run's")


@click.command(cls=GroupedCommand)
@click.option("--run", required=True, type=FOLDER, metavar="RUN", help="A finished run's folder.")
@click.option("--out", type=FOLDER, metavar="RUN", help="Run folder to write.  [default: RUN with -crt at its end]")
@folders.data_option
@click.option(
    "--head",
    type=Choice(("new", "kept")),
    default="new",
    show_default=True,
    help="Start from a new classifier, or from the run's.",
)
@click.option(
    "--augment/--no-augment",
    default=False,
    show_default=True,
    help="Flips and cutout as the run had them: every step then runs the backbone.",
)
@dry_run_option
@plugins_option
@set_option
@setting_options(SETTINGS, {**THE_RUN_S, "sampler": "class-balanced", "epochs": "10"})
def retrain_head(run, out, data, head, augment, dry_run, plugins, assignments, **given):
    """Retrain the classifier of RUN, its backbone frozen (batch-norm statistics too), on balanced samples (cRT).

    Images, findings and validation are the run's own. The result is a run as `cxrdali train` makes them: the same
    command again continues it, and predict, evaluate and compare take it.
    """
    from cxrdali.runs.plugins import load
    from cxrdali.runs.reader import Run
    from cxrdali.train.retrain import retrain_settings

    for path in plugins:
        load(path)
    dataset = folders.open_dataset(data, run=Run.open(run))
    changes = {"device": "auto", "cache_features": True, "new_head": head == "new"}
    settings = retrain_settings(run, dataset, {**changes, **given_settings(given, assignments)}, augment)
    if out is None:
        named = run if run.name not in ("", "..") else run.resolve()  # "." has no name to add to
        out = named.with_name(f"{named.name}-crt")
        click.echo(f"run: {out} (the default)", err=True)
    (say_dry_run if dry_run else train_run)(settings, dataset, out)
