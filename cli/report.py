"""cxrdali report: runs and evaluations as one page."""

import click

from cli.options import folders
from cli.options.folders import FILE, FOLDER, OUTPUT


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--out",
    type=OUTPUT,
    metavar="FILE",
    help="HTML page to write.  [default: RUNS/report.html if RUNS is one folder of several runs]",
)
@click.option(
    "--data",
    multiple=True,
    type=folders.PackPlace(),
    metavar="[NAME=]PACK",
    help="Packed dataset, for label frequencies and pictures; all of them of runs of several.",
)
@folders.cache_options
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    type=FILE,
    metavar="JSON",
    help="What `cxrdali evaluate` wrote; may be repeated.",
)
@click.option("--title", default="cxrdali report", show_default=True)
@click.option("--images", is_flag=True, help="Include pictures of patients (mind the data-use terms).")
def report(runs, out, data, evaluations, title, images):
    """One self-contained page about RUNS: curves, AP per finding, seconds per stage. Its numbers go beside it as .json.

    RUNS are run folders, a folder of them, or the folder of `cxrdali paper`, whose steps, view rules and evaluations
    are then shown beside the numbers that Yamagishi & Hanaoka printed; or the folder of `cxrdali loss-design`, also of
    a half-done study.
    """
    from cxrdali.report.training.page import write_report
    from cxrdali.report.training.sources import ReportOptions
    from cxrdali.runs.layout import CONFIG
    from cxrdali.runs.reader import Run
    from shards.errors import UserError

    if out is None:
        if len(runs) > 1 or (runs[0] / CONFIG).exists():
            raise click.UsageError("give --out FILE; only a single folder of several runs has a page of its own")
        if not runs[0].is_dir():
            raise UserError(f"{runs[0]}: no such folder; give run folders, or one of several runs")
        out = runs[0] / "report.html"
    of = Run.open(runs[0]) if (runs[0] / CONFIG).exists() else None
    pack = folders.open_dataset(data, run=of) if data else None
    path = write_report(out, runs, pack=pack, evaluations=evaluations, options=ReportOptions(title, images=images))
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
