"""cxrdali calibrate: make probabilities mean what they say."""

import click

from cli.options import folders, heldout, tables
from cli.options.fields import Choice, field_options, filled
from cli.options.folders import FILE, OUTPUT
from cli.options.next_command import line, say
from cli.options.scores import ERROR_HEAD, FLOOR, aligned, error_rows, number
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.postprocess.options import CALIBRATIONS, FitOptions
from shards.words import counted


@click.command()
@click.argument("file", type=FILE, required=False)
@click.option("--fit", type=FILE, metavar="VAL_PRED", help="Fit to these predictions, of images with labels.")
@click.option(
    "--method",
    type=Choice(CALIBRATIONS),
    help="For --fit. temperature: logit / T, one T for all findings. per-finding-temperature: one each. platt: "
    "a * logit + b per finding. isotonic: rising steps per finding (platt, if it has fewer than "
    "1,000 positives or negatives).",
)
@click.option("--rules", type=FILE, metavar="JSON", help="Or rules that were fitted before, for FILE.")
@click.option(
    "--out",
    type=OUTPUT,
    required=True,
    metavar="FILE",
    help="With FILE: the calibrated table, .parquet or .csv. Without: the rules, .json.",
)
@click.option(
    "--save-rules",
    type=OUTPUT,
    metavar="JSON",
    help="With FILE: where the rules of --fit are written.  [default: calibration.json beside --out]",
)
@folders.data_option
@heldout.labels_option
@field_options(FitOptions, "uncertain", "folds", "allow_leak", "findings")
@field_options(EvaluateOptions, "allow_other_run", "allow_same_images")
@tables.kind_option
def calibrate(
    file, fit, method, rules, out, save_rules, data, labels, kind, allow_other_run, allow_same_images, **given
):
    """Fit a calibration to validation predictions, apply one to a table, or both. Tables hold logits.

    \b
    cxrdali calibrate --fit val.parquet --method platt --out platt.json
    cxrdali calibrate test.parquet --rules platt.json --out test-platt.parquet

    --fit also writes a page with reliability diagrams beside the rules. Before and after are measured by
    cross-fitting over subjects; the rules are fitted on all images. The order of images is kept.
    """
    heldout.check_fit_or_rules(fit, rules, save_rules=save_rules, labels=labels, **given)
    if (fit is None) != (method is None):
        raise click.UsageError("--fit and --method belong together")
    if rules is not None and file is None:
        raise click.UsageError("--rules calibrates a table: give its FILE")
    if file is None and (save_rules is not None or kind != "logit"):
        raise click.UsageError("--save-rules and --as belong to a FILE that is calibrated")

    from cxrdali import predictions
    from cxrdali.postprocess import calibration
    from cxrdali.postprocess.rules import differences
    from cxrdali.report.calibration.page import write_page

    inputs = [path for path in (file, fit) if path]
    written = out if file is None else (save_rules or out.with_name("calibration.json"))
    if file is not None:
        predictions.check_target(out, *inputs)
    if fit is not None:
        heldout.check_json(written, *inputs)
        fitted = calibration.fit(
            fit, *heldout.open_for_fit(fit, data, labels, given["findings"]), method, filled(FitOptions, given)
        )
        heldout.warn_of_split(fitted.made_from)
    else:
        fitted = calibration.read(rules)
    table = None if file is None else calibration.apply(file, fitted, bool(allow_other_run), bool(allow_same_images))
    if fit is not None:
        _print(fitted)
        fitted.write(written)
        page = write_page(fitted, written.with_suffix(".html"))
        click.echo(f"{written}: rules fitted to {fit}; {page}: reliability diagrams")
        if table is None:
            calibrated = fit.with_name(f"{fit.stem}-{method}.parquet")
            say(line("calibrate", fit, "--rules", written, "--out", calibrated))
    if table is not None:
        for note in differences(table.provenance, fitted.made_from):
            click.echo(f"note: {note}")
        tables.write(table, out, kind)


def _print(fitted) -> None:
    from cxrdali.postprocess.calibration import WHEN

    made_from = fitted.made_from
    click.echo(
        f"{made_from['predictions']}: {counted(made_from['images'], 'image')}, {fitted.method}; before and after by "
        f"cross-fitting, {counted(made_from['folds'], 'part')} by subject"
    )
    rows = [("", "positives", "ECE before", "after", "Brier before", "after", "rule")]
    for rule in sorted(fitted.rules, key=lambda rule: -rule.positives):
        rows.append(_row(rule.finding, f"{rule.positives:,}", rule.before, rule.after, _rule(rule)))
    rows.append(_row("all findings, pooled", "", fitted.pooled_before, fitted.pooled_after, ""))
    click.echo(aligned(rows, left=(0, 6)))
    means = "  ".join(
        f"{title} {number(fitted.macro(name, 'before'), 4)} -> {number(fitted.macro(name, 'after'), 4)}"
        for title, name in (("ECE", "ece"), ("Brier", "brier"))
    )
    click.echo(f"mean over findings: {means}{_difference(fitted.brier_difference)}")
    errors = [row for when in WHEN for row in error_rows(when, fitted.errors[when])]
    click.echo(aligned([ERROR_HEAD, *errors]))
    click.echo(FLOOR)
    if fitted.verdict:
        click.echo(f"note: {fitted.verdict}")


def _difference(found: dict) -> str:
    if found["low"] is None:
        return ""
    return f" ({found['difference']:+.5f}, by patient {found['low']:+.5f} to {found['high']:+.5f})"


def _row(name: str, positives: str, before, after, rule: str) -> tuple[str, ...]:
    return (name, positives, *(number(each, 4) for each in (before.ece, after.ece, before.brier, after.brier)), rule)


def _rule(rule) -> str:
    from cxrdali.postprocess.calibration_maps import Affine

    if rule.kept:
        return f"kept as it is: {rule.kept}"
    shown = f"T = {1 / rule.map.slope:.3f}" if isinstance(rule.map, Affine) else counted(len(rule.map.logits), "knot")
    if isinstance(rule.map, Affine) and rule.map.offset:
        shown = f"{rule.map.slope:.3f} * logit {rule.map.offset:+.3f}"
    mixed = f"{counted(rule.parts_kept, 'part')} of the cross-fit without a fit" if rule.parts_kept else ""
    return "; ".join(filter(None, (shown, rule.remark, mixed)))
