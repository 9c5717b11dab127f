"""cxrdali compare: trained runs side by side."""

import click

from cli.options import folders, tables
from cli.options.fields import field_options, filled
from cli.options.folders import FOLDER
from cli.options.scores import aligned, number
from cxrdali.evaluate.options import CompareOptions


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@folders.data_option
@click.option(
    "--out",
    type=tables.FILE,
    metavar="FILE",
    help="HTML page to write; its numbers go beside it, as .json, .csv and .findings.csv.  [default: print only]",
)
@field_options(CompareOptions, "baseline", "draws", "level", "seed", "folds", "uncertain")
@click.option("--title", default="Comparison of runs", show_default=True, help="Title of the page.")
def compare(runs, data, out, title, **given):
    """RUNS side by side, each by its best epoch on the validation images that all share: mAP, AUROC, F1, calibration,
    head, medium and tail findings, speed; and whether a difference to the baseline is more than chance.

    RUNS are run folders that `cxrdali train` wrote, or a folder of them. A run that is not finished is compared by
    what it has. Intervals and p are of a paired bootstrap over studies.
    """
    from cxrdali.evaluate import compare as library
    from cxrdali.predictions import check_writable

    options = filled(CompareOptions, given)
    if out is not None:
        if out.suffix != ".html":
            raise click.UsageError(f"--out {out}: the page is a .html")
        check_writable(out)
    result = library.compare(runs, folders.open_packed(data), options)
    _print(result)
    if out is not None:
        from cxrdali.report.comparison.page import write_comparison

        paths = [write_comparison(result, out, title), *library.write(result, out.with_suffix(".json"))]
        click.echo(f"written: {', '.join(map(str, paths))}")


SCORES = ("mAP", "macro_AUROC", "macro_F1", "macro_ECE", "macro_Brier", "mAP_head", "mAP_medium", "mAP_tail")
SHORT = {name: name.removeprefix("macro_").removeprefix("mAP_") for name in SCORES}


def _print(result: dict) -> None:
    from cxrdali.report.kit.numbers import duration, sentence

    click.echo(
        f"{result['images']:,} validation images of {result['studies']:,} studies, labels {result['labels']}; "
        "each run by its best epoch"
    )
    rows = [("", *SHORT.values(), "images/s", "time", "epochs")]
    for row in result["runs"]:
        rate = "-" if row["images_per_second"] is None else f"{row['images_per_second']:,.0f}"
        epochs = f"{row['epochs']}" if row["finished"] else f"{row['epochs']} of {row['epochs_planned']}"
        scores = (number(row[name]) for name in SCORES)
        rows.append((row["name"], *scores, rate, duration(row["hours"] * 3600), epochs))
    click.echo(aligned(rows))
    click.echo(f"difference to {result['baseline']}, with its {result['level'] * 100:g} % interval and two-sided p:")
    rows = [(row["run"], SHORT[row["metric"]], _difference(row)) for row in result["differences"]]
    if rows:
        click.echo(aligned(rows, left=(0, 2)))
    groups = "; ".join(f"{group} {len(names)}" for group, names in result["groups"].items())
    click.echo(f"findings by their share of the training images: {groups}")
    if result["without_positives"]:
        click.echo(f"no positive, so in no mean but ECE and Brier: {sentence(result['without_positives'])}")
    for note in result["notes"]:
        click.echo(note)


def _difference(row: dict) -> str:
    if row["difference"] is None:
        return "-"
    if row["low"] is None:
        return f"{row['difference']:+.3f}"
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] p {row['p']:.3f}"
