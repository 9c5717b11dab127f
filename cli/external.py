"""cxrdali external: a run at home and in other hospitals."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.fields import Choice, field_options, filled
from cli.options.imports import quick_imports
from cli.options.runs import run_option
from cli.options.scores import aligned, number, with_interval
from cxrdali.evaluate.options import ExternalOptions
from cxrdali.predict.options import PredictOptions
from shards.words import counted

HOME = "home"


@click.command()
@run_option
@folders.data_option
@click.option(
    "--away",
    multiple=True,
    required=True,
    type=folders.PackPlace(),
    metavar="[NAME=]PACK",
    help="Another hospital's packed dataset; as often as there are.",
)
@click.option(
    "--split", type=Choice(("val", "dev", "test")), default="val", show_default=True, help="Images of home: val is the "
    "run's own fold, judged by what is fitted to its other patients."
)  # fmt: skip
@click.option(
    "--away-split", type=Choice(("train", "dev", "test", "all")), default="all", show_default=True, help="Images away."
)
@click.option(
    "--away-labels",
    multiple=True,
    metavar="NAME=RELEASE",
    help="Label release of an away pack.  [default: the run's, else the pack's first]",
)
@click.option("--out", type=folders.FOLDER, metavar="DIR", help="Folder to write to.  [default: RUN.external]")
@field_options(ExternalOptions, "strategy", "refit", "folds", "uncertain", "findings", "allow_overlap")
@field_options(ExternalOptions, "draws", "level", "seed")
@field_options(PredictOptions, "batch", "device", "precision", "decode", "allow_leak")
def external(run, data, away, split, away_split, away_labels, out, **given):
    """Judge a run at home, on images of its own dataset (--data), and away, in other hospitals, side by side: AP,
    AUROC, sensitivity, specificity, F1 and calibration error with intervals by patient, over the findings that both
    know.

    \b
    cxrdali external --run runs/stage1 --data data/mimic --away nih=data/nih --away data/chexpert

    Thresholds and calibration are fitted at home and carried over; then they are fitted again to a small part of each
    away pack. DIR gets external.json, external.csv, the page external.html, and the predictions.
    """
    options, asked = filled(ExternalOptions, given), filled(PredictOptions, given)
    with quick_imports():
        from dataclasses import replace

        from cxrdali.evaluate import external as library
        from cxrdali.evaluate.away import NearCopies, at_home, elsewhere
        from cxrdali.evaluate.overlap import OverlapOptions
        from cxrdali.report.external.page import write_external
        from cxrdali.runs.reader import Run

    trained = Run.open(run)
    chosen = _releases(away_labels)
    home = folders.open_dataset(data, run=trained)
    packs = folders.open_packs(away, option="--away ")
    if unknown := [name for name in chosen if name not in packs]:
        raise click.UsageError(f"--away-labels {unknown[0]}=...: the away packs are {', '.join(packs)}")
    if HOME in packs:  # as tables, --findings and the page call the images of --data
        raise click.UsageError(f"--away: {HOME} is the dataset of --data here; call the pack otherwise, NAME=PACK")
    out = out or Path(f"{run.resolve().name}.external")
    out.mkdir(0o700, parents=True, exist_ok=True)
    near = NearCopies({part.name: part.dataset for part in home.parts}, options.allow_overlap, OverlapOptions.kept())
    wanted = [replace(asked, labels=chosen.get(name)) for name in packs]
    there = elsewhere(trained, packs, away_split, wanted, out, near)
    first, *validation = at_home(trained, HOME, home, split, asked, out)
    result = library.external(trained, first, there, options, *validation)
    paths = [*library.write(result, out / "external.json"), write_external(result, out / "external.html")]
    _print(result)
    click.echo(f"written: {', '.join(map(str, paths))}")


def _releases(given) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for (name, equals, release), each in zip(pairs, given, strict=True):
        if not name or not equals or not release:
            raise click.BadParameter(f"{each!r}: give NAME=RELEASE", param_hint="--away-labels")
    return {name: release for name, _, release in pairs}


SHOWN = {"AP": "mAP", "AP_reweighted": "mAP at home's prevalence", "AUROC": "AUROC", "recall": "sensitivity",
         "specificity": "specificity", "F1": "F1", "ECE": "ECE, calibrated", "ECE_raw": "ECE, as trained"}  # fmt: skip


def _print(result: dict) -> None:
    from cxrdali.evaluate.remarks import MEANS, resampled, sampled_from

    home = result["home"]
    click.echo(f"home: {counted(home['images'], 'image')} of {sampled_from(home)}, labels {home['labels']}")
    for away in result["away"]:
        means, name = away["means"], away["name"]
        click.echo(
            f"{name}: {counted(away['images'], 'image')} of {sampled_from(away)}, labels {away['labels']}; means over "
            f"{counted(len(away['findings']), 'finding')} in common"
        )
        for what, names in (("home", away["only_home"]), (name, away["only_away"])):
            if names:
                click.echo(f"left out, only {what} knows: {', '.join(names)}")
        for why, images in away["left_out"].items():
            click.echo(f"not judged: {counted(images, 'image')}, {why}")
        rows = [("", "home", name, "home - away", "p", "fitted again")]
        for key, title in SHOWN.items():
            found = means["difference"][key]
            again = with_interval(means["refitted"], key) if key in means["refitted"] else ""
            at_home = "" if key == "AP_reweighted" else with_interval(means["home"], key)
            p = "-" if found["p"] is None else f"{found['p']:.2g}"
            rows.append((title, at_home, with_interval(means["away"], key), number(found["difference"]), p, again))
        click.echo(aligned(rows))
    if result["draws"]:
        how, fewest = resampled({**result, "unit": home["unit"]}), result["fewest_patients"]
        click.echo(f"{how}; none: fewer than {fewest} patients have the finding, or do not have it; {MEANS}")
