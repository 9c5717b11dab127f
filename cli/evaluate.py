"""cxrdali evaluate: a table of predictions against the labels."""

import click

from cli.options import folders
from cli.options.fields import field_options, filled
from cli.options.folders import FILE, OUTPUT
from cli.options.next_command import after_evaluation
from cli.options.scores import ERROR_HEAD, FLOOR, aligned, error_rows, interval, number, with_interval, without_one
from cxrdali.evaluate.options import EvaluateOptions
from shards.words import counted


@click.command()
@click.argument("file", type=FILE)
@folders.data_option
@click.option("--labels", metavar="NAME", help="Label release.  [default: the run's; of a CSV, the dataset's first]")
@click.option(
    "--out",
    type=OUTPUT,
    metavar="NAME",
    help="Where to write NAME.json and NAME.csv.  [default: FILE without its suffix, plus .metrics]",
)
@field_options(EvaluateOptions, "view", "uncertain")
@click.option(
    "--thresholds",
    "limits",
    metavar="JSON|P",
    help="What `cxrdali thresholds` wrote, or one probability for all findings, such as 0.5; adds F1, precision, "
    "recall and specificity. FILE then holds logits.",
)
@field_options(EvaluateOptions, "by", "age_bins", "min_group")
@field_options(EvaluateOptions, "allow_leak", "allow_other_run", "allow_same_images", "findings")
@field_options(EvaluateOptions, "draws", "level", "seed")
def evaluate(file, data, labels, out, limits, **given):
    """AP, AUROC, calibration error (ECE), Brier score, prevalence and counts per finding; means over all findings and
    over head, medium and tail findings, with confidence intervals; the same for frontal and lateral images apart. FILE
    is a table that `cxrdali predict`, `ensemble`, `calibrate` or `postprocess` wrote.

    Of findings that FILE and the labels call otherwise or do not both have, those in common are scored, and what is
    left out is said. Head findings are in at least 10 % of the images that the run was trained on, or of the labels'
    training split in its own dataset, medium ones in 1 % to 10 %, tail ones in fewer. NAME.json has everything;
    NAME.csv a row per view and finding, and after each view's findings its means: rows without a finding, whose group
    is all, head, medium or tail.
    """
    from cxrdali.evaluate import by_group
    from cxrdali.evaluate import evaluate as library
    from cxrdali.postprocess.rules import ALLOWED
    from cxrdali.postprocess.thresholds import read_or_fixed
    from cxrdali.predictions import read
    from shards.errors import UserError

    options = filled(EvaluateOptions, given)
    out = out or file.with_name(f"{file.stem}.metrics")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it, or give another --out")
    dataset = folders.open_dataset(data, options.findings)
    table = read(file)
    about = table.provenance
    labels = dataset.labels(labels or about.labels)
    thresholds = None if limits is None else read_or_fixed(limits, table.findings)
    result = library.evaluate(file, dataset, labels, options, thresholds)
    paths = library.write(result, out)
    if result["groups_by"]:
        paths = (*paths, by_group.write(result["groups_by"], out.with_name(f"{out.name}.groups.csv")))
    of = f" of {about.split}" if about.split else ""
    click.echo(f"{file}: {counted(result['images'], 'image')}{of} against labels {labels.name}")
    if result["fitted_here"]:
        words = ", ".join(result["fitted_here"])
        click.echo(f"note: these are no test scores: fitted on these images, so that scores are too good: {words}")
    if result["fitted_unknown"]:
        click.echo(f"note: fitted on images that nobody knows, perhaps on these: {', '.join(result['fitted_unknown'])}")
    if about.kind is None:
        click.echo(
            f"note: {file} does not say what it holds; ECE and Brier take its values as {result['values']}s, and "
            "nobody can tell whether its images were trained on"
        )
    if result["values"] == "rank":
        click.echo(f"note: {file} holds mean ranks, no probabilities: ECE and Brier score are undefined")
    for text in result["seen"] or ():
        click.echo(f"note: {text}")
    for text in result["history"]:
        if ALLOWED in text:
            click.echo(f"note: {file} was {text}")
    _print(result)
    if thresholds is not None:
        _print_decisions(result)
    if result["groups_by"]:
        from cli.options.group_scores import print_groups

        print_groups(result)
    click.echo(f"written: {', '.join(map(str, paths))}")
    after_evaluation(file, paths[0], about.run)


def _without(part: dict) -> tuple[list[str], list[str]]:
    return part["without_positives"], part["without_negatives"]


def _print(result: dict) -> None:
    from cxrdali.evaluate import remarks
    from cxrdali.metrics.ranking import without_words

    whole, few, unit = result["all"], result["fewest_patients"], counted(2, result["unit"])[2:]
    rows = [("", "images", unit, "share", "AP", "interval", "AUROC", "interval", "ECE", "Brier")]
    for row in sorted(whole["findings"], key=lambda row: -row["positives"]):
        thin = result["draws"] and remarks.too_few(row, few)
        ends = (remarks.TOO_FEW, "") if thin else (interval(row, "AP"), interval(row, "AUROC"))
        scores = (number(row["AP"]), ends[0], number(row["AUROC"]), ends[1])
        counts = f"{row['positives']:,}", f"{row['positive_patients']:,}", f"{row['prevalence']:.2%}"
        rows.append((row["finding"], *counts, *scores, number(row["ECE"], 4), number(row["Brier"], 4)))
    click.echo(aligned(rows))
    if result["draws"]:
        thin = any(remarks.too_few(row, few) for row in whole["findings"])
        why = f"; {remarks.TOO_FEW}: fewer than {few} {unit} have the finding, or do not have it; {remarks.MEANS}"
        click.echo(f"{remarks.resampled(result)}{why if thin else ''}")
    for view in ("all", "frontal", "lateral"):
        part = result[view]
        if part is None:
            click.echo(f"{view}: no image")
            continue
        click.echo(
            f"{view}: {counted(part['images'], 'image')} of {remarks.sampled_from({**result, **part})}, "
            f"mAP {with_interval(part, 'mAP')}, AUROC {with_interval(part, 'macro_AUROC')}, "
            f"LRAP {number(part['LRAP'])}, ECE {with_interval(part, 'macro_ECE', 4)}, "
            f"Brier {with_interval(part, 'macro_Brier', 4)}"
        )
        if part["mAP_without_one"]:
            click.echo(f"{view}: mAP {without_one(part['mAP_without_one'])}")
    if whole.get("ECE_floor"):
        click.echo(aligned([ERROR_HEAD, *error_rows("all", whole)]))
        click.echo(FLOOR)
    without = _without(whole)
    for group, means in (whole["groups"] or {}).items():
        scored = len({*means["findings"]}.difference(*without))
        click.echo(
            f"{group}, {scored} of {counted(len(means['findings']), 'finding')}: mAP {with_interval(means, 'mAP')}, "
            f"AUROC {with_interval(means, 'macro_AUROC')}"
        )
    for view in ("all", "frontal", "lateral"):
        part = result[view]
        if part is not None and any(_without(part)) and (view == "all" or _without(part) != without):
            click.echo(f"not in mAP{'' if view == 'all' else f' of {view} images'}, {without_words(*_without(part))}")
    if beside := remarks.off_centre_in(whole):
        click.echo(f"near the end of its own interval, or outside: {', '.join(beside)}. {remarks.OFF_CENTRE}")
    if result["without_training"]:
        click.echo(f"counted in mAP, but in no training image: {', '.join(result['without_training'])}")


def _print_decisions(result: dict) -> None:
    from scipy.special import expit

    whole, about = result["all"], result["thresholds"]
    names = ("F1", "precision", "recall", "specificity")
    source = f", fitted to {about['predictions']}" if about["predictions"] else ""
    click.echo(f"decisions at thresholds {about['strategy']}{source} (recall is sensitivity)")
    rows = [("", "images", "threshold", "probability", *names)]
    for row in sorted(whole["findings"], key=lambda row: -row["positives"]):
        logit = row["threshold"]
        limit = number(logit), number(None if logit is None else float(expit(logit)), 4)
        rows.append((row["finding"], f"{row['positives']:,}", *limit, *(number(row[name]) for name in names)))
    click.echo(aligned(rows))
    for view in ("all", "frontal", "lateral"):
        if result[view] is not None:
            means = ", ".join(f"{name} {with_interval(result[view], f'macro_{name}')}" for name in names)
            click.echo(f"{view}: {means}")
    if about["without_threshold"]:
        click.echo(f"without a threshold, never called positive: {', '.join(about['without_threshold'])}")
    for remark in about["remarks"]:
        click.echo(f"note: {remark}")
