"""cxrdali train: one stage, or a recipe."""

from dataclasses import replace
from pathlib import Path

import click

from cli.options import folders
from cli.options.gpus import gpus_option, shared_out
from cli.options.loss import loss_options, patience_option, sampler_option
from cli.options.training import train_run
from cli.recipes import file_option

FOLDER = click.Path(path_type=Path, file_okay=False)


class CountOrAuto(click.ParamType):
    """A whole number, or the word auto."""

    name = "integer|auto"

    def convert(self, value, param, context):
        return value if value == "auto" else click.INT.convert(value, param, context)


@click.command()
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
@click.option(
    "--init",
    metavar="RUN_OR_FILE",
    help="Initial weights: a finished run's folder, or a .safetensors or .pt file.  "
    "[default: stage 1: timm's weights; else the folder stage(N-1), or the one that the recipe names, beside RUN]",
)
@click.option("--arch", default="tf_efficientnetv2_s.in21k_ft_in1k", show_default=True, help="A timm model.")
@click.option("--labels", metavar="NAME", help="Label release.  [default: the dataset's first]")
@click.option("--size", type=int, help="Side of the images in pixels.  [default: the stage's]")
@click.option("--batch", type=int, help="Images per optimizer step.  [default: the stage's]")
@click.option(
    "--micro-batch",
    type=CountOrAuto(),
    help="Images on the device at a time; must divide the batch. auto: the most that fit in the GPU's memory, found by "
    "trying, and kept in config.json. Same samples and pixels; batch normalisation sees the smaller groups.  "
    "[default: the batch]",
)
@click.option("--epochs", default=30, show_default=True, help="Epochs, warm-up included.")
@click.option("--warmup-epochs", default=1, show_default=True, help="Epochs in which the rate rises linearly.")
@click.option("--lr", default=1e-3, show_default=True, help="Largest learning rate (then cosine to --min-lr).")
@click.option("--min-lr", default=0.0, show_default=True, help="Where the cosine ends.")
@patience_option
@click.option("--weight-decay", default=1e-6, show_default=True, help="AdamW's, per step and rate.")
@loss_options
@sampler_option("natural")
@click.option("--oversample", metavar="FINDINGS", help='Double the images of these findings: "Fibrosis,Hernia".')
@click.option(
    "--oversample-below",
    type=float,
    metavar="AP",
    help="Double the images of the findings whose validation AP in --oversample-from is below this, 0 to 1 "
    "(the paper's: 0.10 and 0.15).",
)
@click.option(
    "--oversample-from",
    metavar="RUN_OR_METRICS",
    help="A finished run's folder, or what `cxrdali evaluate` wrote (.json, .csv).",
)
@click.option("--fold", default=0, show_default=True, help="Which part of the training split validates, from 0.")
@click.option("--folds", default=5, show_default=True, help="Into how many parts it is divided.")
@click.option(
    "--group",
    type=click.Choice(["subject", "study"]),
    default="subject",
    show_default=True,
    help="What the split keeps together; study is the paper's, and leaks subjects.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@gpus_option
@click.option("--sync-bn", is_flag=True, help="Batch normalisation over the images of all GPUs, not each one's own.")
@click.option(
    "--decode",
    type=click.Choice(["auto", "cpu", "mixed", "hybrid"]),
    default="auto",
    show_default=True,
    help="cpu: decode and augment there; mixed: on the GPU; hybrid: decode on the CPU, the rest on the GPU. "
    "auto is cpu.",
)
@click.option("--threads", type=int, help="DALI's CPU threads.  [default: two a core, at most 8]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp16", "fp32"]),
    default="auto",
    show_default=True,
    help="auto: bf16 on GPUs that have it, else fp16; fp32 on the CPU.",
)
@click.option("--compile", is_flag=True, help="torch.compile the model.")
@click.option(
    "--channels-last/--no-channels-last",
    default=True,
    show_default=True,
    help="Memory format of images and weights. Convolutional networks are faster with it on GPUs: EfficientNetV2-S by "
    "29 % on an RTX 3090 (timm's published figures); ConvNeXt by nothing.",
)
@click.option(
    "--checkpointing",
    is_flag=True,
    help="Gradient checkpointing: less memory for more time; batch normalisation moves its statistics twice a step.",
)
@click.option(
    "--norm",
    type=click.Choice(["imagenet", "weights"]),
    default="imagenet",
    show_default=True,
    help="Mean and std of ImageNet (the paper's), or those of the weights.",
)
@click.option(
    "--flips",
    type=click.Choice(["both", "horizontal", "none"]),
    default="both",
    show_default=True,
    help="Along which axes images are mirrored, each with probability 0.5; both is the paper's.",
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
def train(data, out, stage, recipe, file, gpus, **given):
    """Train one stage, or a recipe. The same command again continues a killed run and does nothing on a finished one.

    SIGTERM and Ctrl-C save first. The run folder holds config.json, metrics.csv, findings.csv, TensorBoard
    events, best.safetensors, last.pt and val_predictions.parquet.
    """
    if (stage is None) == (recipe is None):
        raise click.UsageError("give --stage 1, 2 or 3, or --recipe NAME (`cxrdali recipes` lists them)")
    if file is not None and recipe is None:
        raise click.UsageError("--recipes is a file of recipes: choose one of them with --recipe NAME")

    if shared_out(gpus, given["device"]):
        return

    from cxrdali.runs import recipes
    from cxrdali.runs.settings import TrainSettings, run_folder

    # given and empty means none, also where the recipe has some
    given["oversample"] = tuple(name.strip() for name in (given["oversample"] or "").split(",") if name.strip())
    chosen = recipe and recipes.find(recipes.load(file), recipe)
    if out is None:
        out = folders.RUNS / recipe if recipe else run_folder(folders.RUNS, stage)
        click.echo(f"run: {out} (the default)", err=True)
    if chosen:
        source = click.get_current_context().get_parameter_source
        said = {name: value for name, value in given.items() if source(name).name != "DEFAULT"}
        settings, about = chosen.resolve(out.parent, said)
    else:
        settings, about = TrainSettings(stage=stage, **given), None
        if settings.init is None and stage > 1:
            settings = replace(settings, init=str(run_folder(out.parent, stage - 1)))
    if given["init"] is None and settings.init is not None:
        _check_start(Path(settings.init), out, f"recipe {recipe}" if recipe else f"stage {stage}", chosen, stage)
    if chosen and given["oversample_from"] is None and settings.oversample_from is not None:
        _check_source(Path(settings.oversample_from), out, chosen)
    dataset = folders.open_packed(data)
    train_run(settings, dataset, out, about)


def _check_start(before: Path, out: Path, what: str, chosen, stage: int | None) -> None:
    """Raises UserError if the run to start from is not there, unless the run continues: it has weights of its own."""
    from cxrdali.runs.reader import has_begun
    from shards.errors import UserError

    if before.is_dir() or has_begun(out):
        return
    command = f"--recipe {chosen.starts_from}" if chosen else f"--stage {stage - 1}"
    raise UserError(
        f"{what} starts from {before}, which does not exist; run `cxrdali train {command}` first, or give the "
        "initial weights with --init"
    )


def _check_source(source: Path, out: Path, chosen) -> None:
    """Raises UserError if the run whose AP decides what is oversampled is not there, unless the run continues."""
    from cxrdali.runs.reader import has_begun
    from shards.errors import UserError

    if source.exists() or has_begun(out):
        return
    raise UserError(
        f"recipe {chosen.name} oversamples by the AP of {source}, which does not exist; run `cxrdali train --recipe "
        f"{chosen.settings['oversample_from']}` first, or give a run or metrics with --oversample-from"
    )
