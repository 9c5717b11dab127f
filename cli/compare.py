"""cxrdali compare: trained runs, or tables of predictions, side by side."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.fields import field_options, filled
from cli.options.scores import aligned, number, without_one
from cxrdali.evaluate.options import CompareOptions
from shards.words import counted


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@folders.data_option
@click.option("--labels", metavar="NAME", help="Label release to score tables by.  [default: the one that they name]")
@click.option(
    "--out",
    type=folders.OUTPUT,
    metavar="FILE",
    help="HTML page to write; its numbers go beside it, as .json, .csv and .findings.csv.  [default: print only]",
)
@field_options(
    CompareOptions,
    "baseline",
    "draws",
    "level",
    "seed",
    "folds",
    "uncertain",
    "allow_leak",
    "allow_same_images",
    "findings",
)
@field_options(CompareOptions, "by", "age_bins", "min_group")
@click.option("--title", default="Comparison of runs", show_default=True, help="Title of the page.")
def compare(runs, data, labels, out, title, **given):
    """RUNS side by side on the same images: mAP, AUROC, F1, calibration, head, medium and tail findings, speed; and
    whether a difference to the baseline is more than chance.

    RUNS are run folders that `cxrdali train` wrote, or a folder of them, each compared by its best epoch on its
    validation images (a run that is not finished by what it has); or tables of logits of any split, one per model, that
    `cxrdali predict`, `ensemble` or `calibrate` wrote. Patients are sampled with replacement,
    the same for all, for intervals and p.
    """
    from cxrdali.evaluate import compare as library
    from cxrdali.predictions import check_writable

    options = filled(CompareOptions, given)
    if out is not None:
        if out.suffix != ".html":
            raise click.UsageError(f"--out {out}: the page is a .html")
        check_writable(out)
    result = library.compare(runs, folders.open_dataset(data, options.findings), options, labels)
    _print(result)
    if result["groups_by"]:
        from cli.options.group_scores import print_compared

        print_compared(result)
    if out is not None:
        from cxrdali.report.comparison.page import write_comparison

        paths = [write_comparison(result, out, title), *library.write(result, out.with_suffix(".json"))]
        click.echo(f"written: {', '.join(map(str, paths))}")


SCORES = ("mAP", "macro_AUROC", "macro_F1", "macro_ECE", "macro_Brier", "mAP_head", "mAP_medium", "mAP_tail")
SHORT = {name: name.removeprefix("macro_").removeprefix("mAP_") for name in SCORES}


def _print(result: dict) -> None:
    from cxrdali.evaluate.compare import scored_images
    from cxrdali.evaluate.remarks import resampled, sampled_from
    from cxrdali.fitted import in_words
    from cxrdali.report.kit.numbers import duration, sentence

    trained = any(row["epochs"] for row in result["runs"])
    click.echo(
        f"{counted(result['images'], scored_images(result)[:-1])} of {sampled_from(result)}, labels "
        f"{result['labels']}"
        f"{'; each run by its best epoch' if trained else ''}"
    )
    rows = [("", *SHORT.values(), *(("images/s", "time", "epochs") if trained else ()))]
    for row in result["runs"]:
        scores = (number(row[name]) for name in SCORES)
        rate = "-" if row["images_per_second"] is None else f"{row['images_per_second']:,.0f}"
        spent = ("-", "-", "-") if row["epochs"] is None else (rate, duration(row["hours"] * 3600), _epochs(row))
        rows.append((row["name"], *scores, *(spent if trained else ())))
    click.echo(aligned(rows))
    click.echo("F1: thresholds are cross-fitted over subjects")
    click.echo(_highest(result["best"]["mAP"]))
    how = ", without an interval"
    if count := result["comparisons"]["means"]:
        how = f", {resampled(result)}; p, and in brackets adjusted (Holm) for all {counted(count, 'comparison')}"
    click.echo(f"difference to {result['baseline']}{how if result['draws'] else ''}:")
    rows = [(row["run"], SHORT[row["metric"]], _difference(row)) for row in result["differences"]]
    if rows:
        click.echo(aligned(rows, left=(0, 2)))
    for row in result["differences"]:
        if row["metric"] == "mAP" and row["without_one"]:
            click.echo(f"{row['run']}: difference in mAP {without_one(row['without_one'], '+')}")
    groups = "; ".join(f"{group} {len(names)}" for group, names in result["groups"].items())
    click.echo(f"findings by their share of the training images: {groups}")
    for what in ("positive", "negative"):
        if names := result[f"without_{what}s"]:
            click.echo(f"no {what}, so in no mean but ECE and Brier: {sentence(names)}")
    if result["without_training"]:
        click.echo(f"counted in mAP, but in no training image: {sentence(result['without_training'])}")
    fitted = {row["name"]: in_words(row) for row in result["runs"]}
    for words in dict.fromkeys(filter(None, fitted.values())):
        names = sentence([name for name in fitted if fitted[name] == words])
        click.echo(f"fitted on these images, so that scores are too good (F1 is cross-fitted): {words}: {names}")
    for note in result["notes"]:
        click.echo(note)


def _epochs(row: dict) -> str:
    return f"{row['epochs']}" if row["finished"] else f"{row['epochs']} of {row['epochs_planned']}"


def _highest(best: dict | None) -> str:
    """Which mAP is the highest, and whether by more than chance."""
    if best is None:
        return "mAP: fewer than two are known"
    first, second = best["run"], best["second"]
    if best["separable"]:
        return f"best mAP: {first}, over {second} by {_between(best)}"
    if best["low"] is None:
        return f"highest mAP: {first}; no interval says whether it differs from that of {second} by more than chance"
    return f"highest mAP: {first}, not separable from the second, {second}, difference {_between(best)}"


def _between(row: dict) -> str:
    ends = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['difference']:+.3f}{ends}"


def _difference(row: dict) -> str:
    from cxrdali.report.kit.numbers import probability

    if row["difference"] is None:
        return "-"
    if row["p"] is None:
        return _between(row)
    return f"{_between(row)} p {probability(row['p'])} ({probability(row['p_holm'])})"
