"""cxrdali train-study: a network over all images of a study, from the network of a finished run."""

import click

from cli.options import folders
from cli.options.fields import field_options, filled
from cli.options.folders import FOLDER
from cli.options.gpus import gpus_option, shared_out
from cli.options.settings import GroupedCommand, given_settings, plugins_option, set_option, setting_options
from cli.options.training import dry_run_option, say_dry_run, train_run
from cxrdali.models.fusion_options import StudyOptions

SETTINGS = (
    "seed", "view", "loss", "batch", "epochs", "warmup_epochs", "lr", "weight_decay", "patience", "select_by",
    "ema", "ema_half_life", "ema_warmup", "clip_norm", "head_lr", "device",
    "precision", "micro_batch", "decode", "threads", "cache_features", "allow_leak", "track", "track_paths",
)  # fmt: skip
THE_RUN_S = dict.fromkeys(("seed", "view", "loss", "weight_decay", "clip_norm", "precision", "decode"), "the run's")
OWN = {
    "batch": "the run's, in studies",
    "epochs": "10",
    "lr": "0.001, with --no-frozen 0.0001",
    "micro_batch": "the batch's number, in images",
}


@click.command(cls=GroupedCommand)
@click.option("--run", required=True, type=FOLDER, metavar="RUN", help="A finished run's folder.")
@click.option("--out", type=FOLDER, metavar="RUN", help="Run folder to write.  [default: RUN-FUSION]")
@folders.data_option
@field_options(StudyOptions, "fusion", "fusion_width", "fusion_layers", "fusion_dropout", "study_images", "features")
@click.option(
    "--frozen/--no-frozen",
    default=True,
    show_default=True,
    help="Train fusion and classifier alone, on the backbone's features, which are computed once and kept; or all.",
)
@click.option(
    "--augment/--no-augment",
    default=False,
    show_default=True,
    help="With --frozen: images augmented as the run had them, so that every step runs the backbone.",
)
@gpus_option
@dry_run_option
@plugins_option
@set_option
@setting_options(SETTINGS, {**THE_RUN_S, **OWN})
def train_study(run, out, data, frozen, augment, gpus, dry_run, plugins, assignments, **given):
    """Train a network that sees whole studies: RUN's network for every image, their features fused, and RUN's
    classifier, which is trained further.

    Images, findings, targets and validation are the run's own; a study is positive where any of its images is. The
    result is a run as `cxrdali train` makes them: the same command again continues it, and predict (one prediction a
    study, given to its images), evaluate, compare, calibrate, thresholds, ensemble and submit take it.
    """
    if shared_out(gpus, given["device"] or "auto"):
        return

    from cxrdali.runs.plugins import load
    from cxrdali.runs.reader import Run
    from cxrdali.train.study import study_settings

    for path in plugins:
        load(path)
    dataset = folders.open_dataset(data, run=Run.open(run))
    asked = filled(StudyOptions, given)
    chosen = {name: value for name, value in given.items() if name not in vars(asked)}
    changes = {"device": "auto", **given_settings(chosen, assignments), "frozen": frozen}
    settings = study_settings(run, dataset, asked, changes, augment)
    if out is None:
        named = run if run.name not in ("", "..") else run.resolve()  # "." has no name to add to
        out = named.with_name(f"{named.name}-{asked.fusion}")
        click.echo(f"run: {out} (the default)", err=True)
    (say_dry_run if dry_run else train_run)(settings, dataset, out)
