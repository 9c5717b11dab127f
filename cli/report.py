"""cxrdali report: runs and evaluations as one page."""

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="HTML page to write."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="PACK",
    help="Packed dataset, for label frequencies and pictures.",
)
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="JSON",
    help="What `cxrdali evaluate` wrote; may be repeated.",
)
@click.option("--title", default="cxrdali report", show_default=True)
@click.option("--images", is_flag=True, help="Include pictures of patients (mind the data-use terms).")
def report(runs, out, data, evaluations, title, images):
    """One self-contained page about RUNS: curves, AP per finding, seconds per stage."""
    from cxrdali.report import ReportOptions, write_report

    path = write_report(out, runs, pack=data, evaluations=evaluations, options=ReportOptions(title, images=images))
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
