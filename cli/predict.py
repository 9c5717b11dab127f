"""cxrdali predict: a run's predictions on a split."""

import click

from cli.options import folders, tables
from cli.options.fields import field_options, filled
from cli.options.gpus import gpus_option, shared_out
from cli.options.imports import quick_imports
from cli.options.runs import run_option, split_option
from cxrdali.predict.options import PredictOptions


@click.command()
@run_option
@folders.data_option
@split_option
@tables.out_option
@tables.kind_option
@field_options(PredictOptions, "weights", "tta", "labels", "batch", "device")
@gpus_option
@field_options(PredictOptions, "precision", "decode", "allow_leak")
def predict(run, data, split, out, kind, gpus, **given):
    """Predict a split with a run's best weights, or others: one row per image, in catalog order."""
    from cxrdali.predictions import check_target

    check_target(out)  # before an hour of work, not after
    options = filled(PredictOptions, given)
    if shared_out(gpus, options.device):
        return

    with quick_imports():
        from cxrdali.predict.predict import predict

    table = predict(run, folders.open_packed(data), split, options)
    if table is not None:  # this is the process that writes
        tables.write(table, out, kind)
