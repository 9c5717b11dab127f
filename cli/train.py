"""cxrdali train: one stage."""

import sys
from dataclasses import fields
from pathlib import Path

import click

from cli import folders

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option(
    "--stage",
    type=click.IntRange(1, 3),
    required=True,
    help="1: 224 px, batch 256; 2: 320 px, batch 128; 3: 512 px, batch 48. Stage N starts from the best "
    "weights of stage N-1.",
)
@folders.data_option
@click.option("--out", type=FOLDER, metavar="RUN", help="Run folder.  [default: runs/stageN]")
@click.option(
    "--init",
    metavar="RUN_OR_FILE",
    help="Initial weights: a finished run's folder, or a .safetensors or .pt file.  "
    "[default: stage 1: timm's weights; else the folder stage(N-1) beside RUN]",
)
@click.option("--arch", default="tf_efficientnetv2_s.in21k_ft_in1k", show_default=True, help="A timm model.")
@click.option("--labels", metavar="NAME", help="Label release.  [default: the dataset's first]")
@click.option("--size", type=int, help="Side of the images in pixels.  [default: the stage's]")
@click.option("--batch", type=int, help="Images per optimizer step.  [default: the stage's]")
@click.option(
    "--micro-batch",
    type=int,
    help="Images on the device at a time; must divide the batch. Same samples and pixels; batch "
    "normalisation sees the smaller groups.  [default: the batch]",
)
@click.option("--epochs", default=30, show_default=True, help="Epochs, the first one a linear warm-up.")
@click.option("--lr", default=1e-3, show_default=True, help="Largest learning rate (then cosine to zero).")
@click.option("--fold", default=0, show_default=True, help="Which fifth of the training split validates, 0 to 4.")
@click.option(
    "--group",
    type=click.Choice(["subject", "study"]),
    default="subject",
    show_default=True,
    help="What the split keeps together; study is the paper's, and leaks subjects.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--decode",
    type=click.Choice(["auto", "cpu", "mixed", "hybrid"]),
    default="auto",
    show_default=True,
    help="cpu: decode and augment there; mixed: on the GPU; hybrid: decode on the CPU, the rest on the GPU. "
    "auto is cpu.",
)
@click.option("--threads", type=int, help="DALI's CPU threads.  [default: the cores and one more, at most 8]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp16", "fp32"]),
    default="auto",
    show_default=True,
    help="auto: bf16 on GPUs that have it, else fp16; fp32 on the CPU.",
)
@click.option("--compile", is_flag=True, help="torch.compile the model.")
@click.option(
    "--norm",
    type=click.Choice(["imagenet", "weights"]),
    default="imagenet",
    show_default=True,
    help="Mean and std of ImageNet (the paper's), or those of the weights.",
)
@click.option(
    "--cutout",
    type=click.Choice(["fixed", "random", "off"]),
    default="fixed",
    show_default=True,
    help="fixed: five squares of 5 % of the side (the paper's); random: one to five of up to 5 %.",
)
@click.option(
    "--order",
    type=click.Choice(["global", "windowed"]),
    default="global",
    show_default=True,
    help="windowed: a few shards at a time, for data larger than memory on slow disks.",
)
@click.option(
    "--uncertain",
    type=click.Choice(["negative", "positive", "ignore"]),
    default="negative",
    show_default=True,
    help="What -1 counts as; blanks are negative, or ignored with ignore.",
)
@click.option(
    "--select-by",
    type=click.Choice(["map", "lrap"]),
    default="map",
    show_default=True,
    help="Which metric chooses the best epoch.",
)
@click.option(
    "--pretrained/--no-pretrained", default=True, show_default=True, help="Start stage 1 from timm's weights."
)
@click.option("--seed", default=0, show_default=True, help="Of order, augmentation and initial weights.")
@click.option("--limit-batches", type=int, help="Train and validate only so many batches per epoch, for a trial.")
def train(data, out, **given):
    """Train one stage. The same command again continues a killed run and does nothing on a finished one.

    SIGTERM and Ctrl-C save first. The run folder holds config.json, metrics.csv, findings.csv, TensorBoard
    events, best.safetensors, last.pt and val_predictions.parquet.
    """
    from cxrdali.stages import TrainSettings, run_folder
    from cxrdali.trainer import Stopped, train
    from shards.errors import DataError
    from shards.packed import PackedDataset

    stage = given["stage"]
    if out is None:
        out = run_folder(folders.RUNS, stage)
        click.echo(f"run: {out} (the default)", err=True)
    if given["init"] is None and stage > 1:
        before = run_folder(out.parent, stage - 1)
        if not before.is_dir() and not (out / "last.pt").exists():
            raise DataError(
                f"stage {stage} starts from {before}, which does not exist; run `cxrdali train --stage {stage - 1}` "
                "first, or give the initial weights with --init"
            )
        given["init"] = str(before)
    settings = TrainSettings(
        **{field.name: given[field.name] for field in fields(TrainSettings) if field.name in given}
    )
    dataset = PackedDataset.open(folders.packed(data))
    try:
        summary = train(settings, dataset, out, say=click.echo)
    except Stopped as stop:
        click.echo(str(stop), err=True)
        sys.exit(128 + stop.signal)
    what = "was already finished" if summary.already_finished else "finished"
    click.echo(f"{out}: {what}; best epoch {summary.best_epoch} with {given['select_by']} {summary.best_score:.4f}")
