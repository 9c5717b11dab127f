"""cxrdali export: the model out."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.fields import Choice, field_options, filled
from cli.options.folders import FILE
from cli.options.imports import quick_imports
from cli.options.runs import RunFolder
from cxrdali.export.options import TARGETS, ExportOptions


@click.command()
@click.argument("run", type=RunFolder())
@click.option(
    "--to",
    type=Choice(TARGETS),
    required=True,
    help="timm: weights for timm.create_model. onnx, torchscript: from pixels to probabilities, in one file. "
    "hub-folder: weights, settings and card as the Hugging Face Hub has them. card: the model card alone.",
)
@click.option(
    "--out",
    type=folders.Output(path_type=Path),
    required=True,
    metavar="PATH",
    help="File to write: .safetensors (timm), .onnx, .pt (torchscript), .md (card); or a new folder (hub-folder).",
)
@field_options(ExportOptions, "outputs")
@click.option("--calibration", type=FILE, metavar="JSON", help="Rules that `cxrdali calibrate` fitted to this run.")
@click.option("--thresholds", type=FILE, metavar="JSON", help="What `cxrdali thresholds` fitted to this run.")
@click.option(
    "--evaluation",
    multiple=True,
    type=FILE,
    metavar="JSON",
    help="For the card: what `cxrdali evaluate` wrote of this run; may be repeated.  [default: RUN/*.metrics.json]",
)
@click.option(
    "--data",
    type=folders.Place(),
    metavar="PACK",
    help="The pack that RUN was trained on: an export is checked on its validation images, and a card counts it.",
)
@folders.cache_options
@field_options(ExportOptions, "opset", "allow_other_run")
@click.option(
    "--plugins",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="The Python file that defines the loss or head of RUN, where it is a plugin's. May be repeated.",
)
def export(run, data, out, plugins, **given):
    """Write RUN for other programs. It is checked against torch before the file is there, and nothing is uploaded.

    \b
    cxrdali export runs/stage1 --to onnx --out stage1.onnx --calibration platt.json
    cxrdali export runs/stage1 --to hub-folder --out stage1-hub --data data/packed

    onnx and torchscript take uint8 images [N, 1, S, S] and have all that follows inside: normalisation, the scale of the
    logits, the calibration. timm and hub-folder hold the network's weights. Needs pip install 'cxrdali[export]'.
    """
    options = filled(ExportOptions, given)
    with quick_imports():
        from cxrdali.export.export import export
        from cxrdali.runs.plugins import load

    for path in plugins:
        load(path)
    export(run, out, options, None if data is None else folders.open_packed(data))
