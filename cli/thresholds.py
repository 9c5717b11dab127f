"""cxrdali thresholds: from which logit on an image is called positive."""

import click

from cli.options import folders, heldout
from cli.options.scores import number
from cli.options.tables import FILE


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
@click.option("--out", type=FILE, required=True, metavar="JSON", help="Where the thresholds are written.")
@folders.data_option
@heldout.labels_option
@heldout.uncertain_option
@heldout.folds_option
@heldout.force_option
def thresholds(fit, strategy, out, data, labels, uncertain, folds, force):
    """Fit a threshold per finding to validation predictions, for `cxrdali evaluate --thresholds`.

    The figures shown are cross-fitted over subjects; the thresholds are fitted on all images. If the tables to judge
    are calibrated, fit to the calibrated validation table.
    """
    from cxrdali.postprocess import thresholds as library

    heldout.check_json(out, fit)
    options = heldout.fit_options(uncertain=uncertain, folds=folds, force=force)
    fitted = library.fit(fit, *heldout.open_for_fit(fit, data, labels), strategy, options)
    heldout.warn_of_split(fitted.made_from)
    _print(fitted)
    fitted.write(out)
    click.echo(f"{out}: thresholds fitted to {fit}")


def _print(fitted) -> None:
    made_from = fitted.made_from
    width = max(map(len, (*fitted.findings, "mean over findings")))
    click.echo(
        f"{made_from['predictions']}: {made_from['images']:,} images, {fitted.strategy}; figures by cross-fitting, "
        f"{made_from['folds']} parts by subject (recall is sensitivity)"
    )
    titles = ("F1", "precision", "recall", "specificity", "F1 at 0.5")
    names = ("F1", "precision", "recall", "specificity", "F1_half")
    head = "  ".join(f"{title:>11}" for title in titles)
    click.echo(f"{'':{width}}  {'positives':>9}  {'threshold':>9}  {'probability':>11}  {head}")
    for rule in sorted(fitted.rules, key=lambda rule: -rule.positives):
        values = "  ".join(f"{number(getattr(rule, name)):>11}" for name in names)
        limit = f"{number(rule.threshold):>9}  {number(rule.probability, 4):>11}"
        click.echo(f"{rule.finding:{width}}  {rule.positives:>9,}  {limit}  {values}")
    means = "  ".join(f"{number(fitted.macros[f'macro_{name}']):>11}" for name in names)
    click.echo(f"{'mean over findings':{width}}  {'':>9}  {'':>9}  {'':>11}  {means}")
    for rule in fitted.rules:
        if rule.remark:
            click.echo(f"{rule.finding}: {rule.remark}")
