"""cxrdali export: the model out."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.fields import Choice, field_options, filled
from cli.options.folders import FILE
from cli.options.imports import quick_imports
from cli.options.run_folder import RunFolder
from cxrdali.export.options import TARGETS, ExportOptions


@click.command()
@click.argument("run", type=RunFolder())
@click.option("--to", type=Choice(TARGETS), required=True, help="What is written; see below.")
@click.option("--out", type=folders.Output(path_type=Path), required=True, metavar="PATH", help="New file, or folder.")
@field_options(ExportOptions, "outputs", "calibration", "thresholds")
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
def export(run, data, out, **given):
    """Write RUN for other programs, checked against torch; nothing is uploaded. Needs pip install 'cxrdali[export]'.

    \b
    onnx         a .onnx: uint8 images [N, 1, S, S] to probabilities or logits
    torchscript  a .pt: the same
    timm         a .safetensors: weights for timm.create_model
    hub-folder   a folder: weights, config.json and the card, as the Hugging Face Hub has them
    card         a .md: the model card alone

    onnx and torchscript hold all between pixels and output: normalisation, the logits' scale, the calibration.
    """
    options = filled(ExportOptions, given)
    with quick_imports():
        from cxrdali.export.export import export

    export(run, out, options, None if data is None else folders.open_packed(data))
