"""cxrdali average: the mean of a run's kept epochs, or of several runs' weights, as a run of its own."""

import click

from cli.options import folders
from cli.options.fields import field_options
from cli.options.folders import FOLDER
from cxrdali.runtime.options import RuntimeSettings


@click.command()
@click.option(
    "--run", "paths", required=True, multiple=True, type=FOLDER, metavar="RUN", help="A finished run; or several."
)
@click.option("--best", type=click.IntRange(2), metavar="K", help="Of one run: its best K epochs (--keep-epochs).")
@click.option("--last", type=click.IntRange(2), metavar="K", help="Of one run: its last K epochs.")
@click.option("--out", required=True, type=FOLDER, metavar="RUN", help="Run folder to write.")
@folders.data_option
@field_options(RuntimeSettings, "device")
def average(paths, best, last, out, data, device):
    """Write the mean of weights as a finished run: of epochs that RUN kept, or of several runs' best weights.

    Batch normalisation sees the training images once more. The result is scored on the validation images, which all
    runs must share; predict, evaluate, explain, export and --init take it as they take any run.
    """
    if len(paths) > 1 and (best or last):
        raise click.UsageError("--best and --last are of the epochs of one --run; of several, the best weights count")
    if len(paths) == 1 and (best is None) == (last is None):
        raise click.UsageError("give --best K or --last K of one --run, or more than one --run")
    from cxrdali.runs.reader import Run
    from cxrdali.runs.words import best as best_epoch
    from cxrdali.train.average import average as write_mean
    from cxrdali.train.average import of_epochs, of_runs

    runs = [Run.open(path) for path in paths]
    members = of_runs(runs) if len(runs) > 1 else of_epochs(runs[0], best or last, best is not None)
    dataset = folders.open_dataset(data, run=runs[0])
    write_mean(members, dataset, out, device or "auto")
    click.echo(f"{out}: {best_epoch(Run.open(out))}")
