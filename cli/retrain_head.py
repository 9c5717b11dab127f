"""cxrdali retrain-head: cRT, the classifier of a finished run anew on balanced draws."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.loss import loss_options, patience_option, sampler_option
from cli.options.training import train_run

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--run", required=True, type=FOLDER, metavar="RUN", help="A finished run's folder.")
@click.option("--out", type=FOLDER, metavar="RUN", help="Run folder to write.  [default: RUN with -crt at its end]")
@folders.data_option
@sampler_option("class-balanced")
@loss_options
@click.option(
    "--head",
    type=click.Choice(["new", "kept"]),
    default="new",
    show_default=True,
    help="Start from a new classifier, or from the run's.",
)
@click.option("--epochs", default=10, show_default=True, help="Epochs, warm-up included.")
@click.option("--warmup-epochs", default=1, show_default=True, help="Epochs in which the rate rises linearly.")
@click.option("--lr", default=1e-3, show_default=True, help="Largest learning rate (then cosine to zero).")
@click.option("--weight-decay", type=float, help="AdamW's, per step and rate.  [default: the run's]")
@click.option("--batch", type=int, help="Images per optimizer step.  [default: the run's]")
@click.option(
    "--micro-batch", type=int, help="Images on the device at a time; must divide the batch.  [default: the batch]"
)
@patience_option
@click.option(
    "--augment/--no-augment",
    default=False,
    show_default=True,
    help="Flips and cutout as the run had them: every step then runs the backbone.",
)
@click.option(
    "--cache-features/--no-cache-features",
    default=True,
    show_default=True,
    help="Without augmentation: compute the backbone's features once and keep them in the device's memory "
    "(212,000 images with 2,048 numbers: 1.7 GB).",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--decode",
    type=click.Choice(["auto", "cpu", "mixed", "hybrid"]),
    help="cpu: decode there; mixed: on the GPU; hybrid: decode on the CPU, the rest on the GPU.  [default: the run's]",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp16", "fp32"]),
    help="auto: bf16 on GPUs that have it, else fp16; fp32 on the CPU.  [default: the run's]",
)
@click.option("--threads", type=int, help="DALI's CPU threads.  [default: two a core, at most 8]")
@click.option("--seed", type=int, help="Of order, draws and the new classifier.  [default: the run's]")
def retrain_head(run, out, data, head, augment, **given):
    """Retrain the classifier of RUN, its backbone frozen (batch-norm statistics too), on balanced draws (cRT).

    Images, findings and validation are the run's own. The result is a run as `cxrdali train` makes them: the same
    command again continues it, and predict, evaluate and compare take it.
    """
    from cxrdali.runs.reader import Run
    from cxrdali.train.retrain import settings_of

    changes = {name: value for name, value in given.items() if value is not None}
    changes["new_head"] = head == "new"
    if augment:
        settings = Run.open(run).settings
        changes |= {"flips": settings.flips, "cutout": settings.cutout}
    dataset = folders.open_packed(data)
    settings = settings_of(run, dataset, changes)
    if out is None:
        named = run if run.name not in ("", "..") else run.resolve()  # "." has no name to add to
        out = named.with_name(f"{named.name}-crt")
        click.echo(f"run: {out} (the default)", err=True)
    train_run(settings, dataset, out)
