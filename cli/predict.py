"""cxrdali predict: a run's predictions on a split."""

from pathlib import Path

import click

from cli.options import folders, tables
from cli.options.gpus import gpus_option, shared_out


@click.command()
@click.option(
    "--run", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="RUN", help="Run folder."
)
@folders.data_option
@click.option(
    "--split",
    type=click.Choice(["val", "train", "dev", "test", "all"]),
    default="val",
    show_default=True,
    help="val and train are the run's own fold, dev and test the released splits.",
)
@tables.out_option
@tables.kind_option
@click.option(
    "--tta",
    type=click.Choice(["none", "hflip", "flips", "light", "medium"]),
    default="none",
    show_default=True,
    help="Test-time augmentation, a mean probability over passes: hflip, the image and its mirror image (2 passes, the "
    "stage-training paper's); flips, all four flips (4); light, the image, its mirror image, rotated by 5 degrees both "
    "ways (4); medium, those, at 0.9 and 1.1 of its size, moved by 2.5 % to each side (10). Time is per pass.",
)
@click.option("--labels", metavar="NAME", help="Label release whose split is meant.  [default: the run's]")
@click.option("--batch", type=int, help="Images at a time.  [default: the run's, or its micro-batch]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@gpus_option
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), default="auto", show_default=True)
@click.option("--decode", type=click.Choice(["auto", "cpu", "mixed", "hybrid"]), default="auto", show_default=True)
def predict(run, data, split, out, kind, tta, labels, batch, device, gpus, precision, decode):
    """Predict a split with a run's best weights: one row per image, in catalog order."""
    from cxrdali.predictions import check_target

    check_target(out)  # before an hour of work, not after
    if shared_out(gpus, device):
        return

    from cxrdali.predict.predict import PredictOptions, predict

    dataset = folders.open_packed(data)
    table = predict(run, dataset, split, PredictOptions(labels, tta, batch, device, precision, decode))
    if table is not None:  # this is the process that writes
        tables.write(table, out, kind)
