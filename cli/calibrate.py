"""cxrdali calibrate: make probabilities mean what they say."""

from pathlib import Path

import click

from cli.options import folders, heldout, tables

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=FILE, required=False)
@click.option("--fit", type=FILE, metavar="VAL_PRED", help="Learn from these predictions, of images with labels.")
@click.option(
    "--method",
    type=click.Choice(["temperature", "per-finding-temperature", "platt", "isotonic"]),
    help="For --fit. temperature: logit / T, one T for all findings. per-finding-temperature: one each. platt: "
    "a * logit + b per finding. isotonic: rising steps per finding.",
)
@click.option("--rules", type=FILE, metavar="JSON", help="Or rules that were learnt before, for FILE.")
@click.option(
    "--out",
    type=FILE,
    required=True,
    metavar="FILE",
    help="With FILE: the calibrated table, .parquet or .csv. Without: the rules, .json.",
)
@click.option(
    "--save-rules",
    type=FILE,
    metavar="JSON",
    help="With FILE: where the rules of --fit are written.  [default: calibration.json beside --out]",
)
@folders.data_option
@heldout.labels_option
@heldout.uncertain_option
@heldout.folds_option
@heldout.force_option
@tables.kind_option
def calibrate(file, fit, method, rules, out, save_rules, data, labels, uncertain, folds, force, kind):
    """Learn a calibration from validation predictions, apply one to a table, or both. Tables hold logits.

    \b
    cxrdali calibrate --fit val.parquet --method platt --out platt.json
    cxrdali calibrate test.parquet --rules platt.json --out test-platt.parquet

    --fit also writes a page with reliability diagrams beside the rules. Before and after are measured by
    cross-fitting over subjects; the rules are fitted on all images. The order of images is kept.
    """
    if (fit is None) == (rules is None):
        raise click.UsageError("give one of --fit (predictions to learn from) and --rules (learnt before)")
    if (fit is None) != (method is None):
        raise click.UsageError("--fit and --method belong together")
    if rules is not None and file is None:
        raise click.UsageError("--rules calibrates a table: give its FILE")
    if rules is not None and (force or any(option is not None for option in (save_rules, labels, uncertain, folds))):
        raise click.UsageError("--save-rules, --labels, --uncertain, --folds and --force belong to --fit")
    if file is None and (save_rules is not None or kind != "logit"):
        raise click.UsageError("--save-rules and --as belong to a FILE that is calibrated")

    from cxrdali import predictions
    from cxrdali.postprocess import calibration
    from cxrdali.postprocess.crossfit import differences
    from cxrdali.report.calibration.page import write_page

    inputs = [path for path in (file, fit) if path]
    written = out if file is None else (save_rules or out.with_name("calibration.json"))
    if file is not None:
        predictions.check_target(out, *inputs)
    if fit is not None:
        heldout.check_json(written, *inputs)
        learnt = heldout.learn(
            calibration.fit, fit, method, data, labels, uncertain=uncertain, folds=folds, force=force
        )
    else:
        learnt = calibration.read(rules)
    table = None if file is None else calibration.apply(file, learnt)
    if fit is not None:
        _print(learnt)
        learnt.write(written)
        page = write_page(learnt, written.with_suffix(".html"))
        click.echo(f"{written}: rules learnt from {fit}; {page}: reliability diagrams")
    if table is not None:
        for note in differences(table.provenance, learnt.made_from):
            click.echo(f"note: {note}")
        tables.write(table, out, kind)


def _print(learnt) -> None:
    made_from = learnt.made_from
    width = max(map(len, (*learnt.findings, "all findings, pooled")))
    click.echo(
        f"{made_from['predictions']}: {made_from['images']:,} images, {learnt.method}; before and after by "
        f"cross-fitting, {made_from['folds']} parts by subject"
    )
    click.echo(
        f"{'':{width}}  {'positives':>9}  {'ECE before':>10}  {'after':>7}  {'Brier before':>12}  {'after':>7}  rule"
    )
    for rule in sorted(learnt.rules, key=lambda rule: -rule.positives):
        click.echo(_row(rule.finding, f"{rule.positives:,}", rule.before, rule.after, width, f"  {_rule(rule)}"))
    click.echo(_row("all findings, pooled", "", learnt.pooled_before, learnt.pooled_after, width, ""))
    means = "  ".join(
        f"{title} {heldout.number(learnt.macro(name, 'before'))} -> {heldout.number(learnt.macro(name, 'after'))}"
        for title, name in (("ECE", "ece"), ("Brier", "brier"))
    )
    click.echo(f"mean over findings: {means}")


def _row(name: str, positives: str, before, after, width: int, end: str) -> str:
    ece = f"{heldout.number(before.ece):>10}  {heldout.number(after.ece):>7}"
    brier = f"{heldout.number(before.brier):>12}  {heldout.number(after.brier):>7}"
    return f"{name:{width}}  {positives:>9}  {ece}  {brier}{end}"


def _rule(rule) -> str:
    from cxrdali.postprocess.calibration_maps import Isotonic

    if rule.kept:
        return f"kept as it is: {rule.kept}"
    if isinstance(rule.map, Isotonic):
        return f"{len(rule.map.logits)} knots"
    if rule.map.offset:
        return f"{rule.map.slope:.3f} * logit {rule.map.offset:+.3f}"
    return f"T = {1 / rule.map.slope:.3f}"
