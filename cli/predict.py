"""cxrdali predict: a run's predictions on a split of a pack, or of new images."""

import click

from cli.options import folders, tables
from cli.options.fields import field_options, filled
from cli.options.gpus import gpus_option, shared_out
from cli.options.imports import quick_imports
from cli.options.run_folder import RunFolder
from cli.options.runs import split_option
from cxrdali.predict.options import JudgeOptions, PredictOptions
from shards.words import counted

OF_PACKS = ("data", "cache", "split", "view", "labels", "gpus", "decode", "allow_leak")
OF_IMAGES = ("calibration", "thresholds", "allow_other_run", "jobs")


@click.command()
@click.argument("more", nargs=-1, metavar="[PATH]...")
@click.option(
    "--run",
    "runs",
    required=True,
    multiple=True,
    type=RunFolder(),
    metavar="RUN",
    help="Run folder. Of new images, as often as there are runs: their mean probability.",
)
@folders.data_option
@split_option
@click.option(
    "--images",
    multiple=True,
    metavar="PATH",
    help='New images in place of a packed dataset: a file, a folder, a pattern ("films/*.png"), or a table of paths '
    "(.csv, .txt, .parquet; column path, and image_id if they have ids). More paths may follow.",
)
@tables.out_option
@tables.kind_option
@field_options(PredictOptions, "view", "weights", "tta", "labels", "batch", "device")
@gpus_option
@field_options(PredictOptions, "precision", "decode", "allow_leak")
@field_options(JudgeOptions, "calibration", "thresholds", "allow_other_run")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="New images that are decoded at a time, each in a process.  [default: all cores]",
)
def predict(more, runs, data, split, images, out, kind, gpus, jobs, **given):
    """Predict a split of a packed dataset with a run's best weights, or others: one row per image, in catalog order.

    \b
    cxrdali predict --run runs/stage3 --split test --out test.parquet
    cxrdali predict --run runs/stage3 --images films/*.png --out films.csv

    With --images, predict files that nobody packed, by the pixels that packing would have stored. FILE is then a .csv
    for people (probabilities, and with --thresholds whether each finding is present), a .jsonl for programs, or a
    .parquet as of a split; what cannot be read is listed in FILE.rejects.csv. See docs/using-a-model.md.
    """
    _check_belongs(bool(images))
    if more and not images:
        raise click.UsageError(f"unexpected {more[0]!r}; new images are given with --images PATH...")
    if images:
        _predict_images(runs, (*images, *more), out, kind, jobs, filled(JudgeOptions, given))
        return
    if len(runs) > 1:
        raise click.UsageError("several --run belong to --images; predict with each, then pool with `cxrdali ensemble`")

    from cxrdali.predictions import check_target

    check_target(out)  # before an hour of work, not after
    options = filled(PredictOptions, given)
    if shared_out(gpus, options.device):
        return

    with quick_imports():
        from cxrdali.predict.predict import predict
        from cxrdali.runs.reader import Run

    table = predict(runs[0], folders.open_dataset(data, run=Run.open(runs[0])), split, options)
    if table is not None:  # this is the process that writes
        tables.write(table, out, kind)


def _check_belongs(images: bool) -> None:
    """Raises click.UsageError for an option of packs beside --images, or one of new images without."""
    context = click.get_current_context()
    for name in OF_PACKS if images else OF_IMAGES:
        if _given(context, name):
            other = "packed datasets, and --images was given" if images else "--images PATH, which was not given"
            raise click.UsageError(f"--{name.replace('_', '-')} belongs to {other}")


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE


def _predict_images(runs, images, out, kind, jobs, options) -> None:
    from cxrdali.predict import verdicts
    from cxrdali.runtime.torchrun import started_by_torchrun
    from shards.errors import UserError

    table = out.suffix == verdicts.TABLE
    if _given(click.get_current_context(), "kind") and kind == "logit" and not table:
        raise click.UsageError(f"--as logit: a {out.suffix} of --images holds probabilities; give --out FILE.parquet")
    if table and options.thresholds is not None:
        raise click.UsageError("--thresholds: a .parquet has no place for decisions; give --out FILE.csv or FILE.jsonl")
    if started_by_torchrun():
        raise UserError("--images: new images are judged by one process; start it without torchrun")
    verdicts.check_target(out, images)
    with quick_imports():
        from joblib import cpu_count

        from cxrdali.predict.image_files import find
        from cxrdali.predict.judge import Judge
        from cxrdali.predict.new_images import judge_files
        from cxrdali.runs.reader import Run

    files = find(images)
    judge = Judge.of([Run.open(run) for run in runs], options)
    found = judge_files(judge, files, jobs or cpu_count())
    verdicts.write(found, out, kind == "probability")
    listed = (
        f"{counted(len(found.rejects), 'image')} rejected: {found.rejected} (listed in {verdicts.rejects_path(out)})"
    )
    if not found.paths:
        raise UserError(f"{out}: no image could be judged, {listed}; give others")
    click.echo(f"{out}: {counted(len(found.paths), 'image')}, {counted(len(judge.findings), 'finding')}")
    if found.rejects:
        click.echo(listed)
