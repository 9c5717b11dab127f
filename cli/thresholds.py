"""cxrdali thresholds: from which logit on an image is called positive."""

import click

from cli.options import folders, heldout
from cli.options.fields import field_options, filled
from cli.options.folders import FILE, OUTPUT
from cli.options.scores import aligned, number
from cxrdali.postprocess.options import FitOptions
from shards.words import counted


@click.command()
@click.option("--fit", type=FILE, required=True, metavar="VAL_PRED", help="Logits to fit to, of images with labels.")
@click.option(
    "--strategy",
    default="f1",
    show_default=True,
    metavar="NAME",
    help="f1: the best F1. precision=P: the lowest threshold with at least precision P. recall=R: the highest "
    "threshold with at least recall (sensitivity) R. prevalence: as many positives as the finding has. P, R: 0 to 1.",
)
@click.option("--out", type=OUTPUT, required=True, metavar="JSON", help="Where the thresholds are written.")
@folders.data_option
@heldout.labels_option
@field_options(FitOptions, "uncertain", "folds", "allow_leak", "findings")
def thresholds(fit, strategy, out, data, labels, **given):
    """Fit a threshold per finding to validation predictions, for `cxrdali evaluate --thresholds`.

    The figures shown are cross-fitted over subjects; the thresholds are fitted on all images. If the tables to judge
    are calibrated, fit to the calibrated validation table.
    """
    from cxrdali.postprocess import thresholds as library

    heldout.check_json(out, fit)
    fitted = library.fit(
        fit, *heldout.open_for_fit(fit, data, labels, given["findings"]), strategy, filled(FitOptions, given)
    )
    heldout.warn_of_split(fitted.made_from)
    _print(fitted)
    fitted.write(out)
    click.echo(f"{out}: thresholds fitted to {fit}")


def _print(fitted) -> None:
    made_from = fitted.made_from
    click.echo(
        f"{made_from['predictions']}: {counted(made_from['images'], 'image')}, {fitted.strategy}; figures by "
        f"cross-fitting, {counted(made_from['folds'], 'part')} by subject (recall is sensitivity)"
    )
    names = ("F1", "precision", "recall", "specificity", "F1_half")
    rows = [("", "positives", "threshold", "probability", *names[:-1], "F1 at 0.5")]
    for rule in sorted(fitted.rules, key=lambda rule: -rule.positives):
        values = (number(getattr(rule, name)) for name in names)
        limit = number(rule.threshold), number(rule.probability, 4)
        rows.append((rule.finding, f"{rule.positives:,}", *limit, *values))
    means = (number(fitted.macros[f"macro_{name}"]) for name in names)
    click.echo(aligned([*rows, ("mean over findings", "", "", "", *means)]))
    for remark in dict.fromkeys(rule.remark for rule in fitted.rules if rule.remark):
        click.echo(f"{', '.join(rule.finding for rule in fitted.rules if rule.remark == remark)}: {remark}")
