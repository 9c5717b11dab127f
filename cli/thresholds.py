"""cxrdali thresholds: from which logit on an image is called positive."""

from pathlib import Path

import click

from cli.options import folders, heldout

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--fit", type=FILE, required=True, metavar="VAL_PRED", help="Logits to learn from, of images with labels."
)
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
    """Learn a threshold per finding from validation predictions, for `cxrdali evaluate --thresholds`.

    The figures shown are cross-fitted over subjects; the thresholds are fitted on all images. If the tables to judge
    are calibrated, learn from the calibrated validation table.
    """
    from cxrdali.postprocess import thresholds as library

    heldout.check_json(out, fit)
    learnt = heldout.learn(library.fit, fit, strategy, data, labels, uncertain=uncertain, folds=folds, force=force)
    _print(learnt)
    learnt.write(out)
    click.echo(f"{out}: thresholds learnt from {fit}")


def _print(learnt) -> None:
    made_from = learnt.made_from
    width = max(map(len, (*learnt.findings, "mean over findings")))
    click.echo(
        f"{made_from['predictions']}: {made_from['images']:,} images, {learnt.strategy}; figures by cross-fitting, "
        f"{made_from['folds']} parts by subject (recall is sensitivity)"
    )
    titles = ("F1", "precision", "recall", "specificity", "F1 at 0.5")
    names = ("F1", "precision", "recall", "specificity", "F1_half")
    head = "  ".join(f"{title:>11}" for title in titles)
    click.echo(f"{'':{width}}  {'positives':>9}  {'threshold':>9}  {'probability':>11}  {head}")
    for rule in sorted(learnt.rules, key=lambda rule: -rule.positives):
        values = "  ".join(f"{heldout.number(getattr(rule, name), 3):>11}" for name in names)
        limit = f"{heldout.number(rule.threshold, 3):>9}  {heldout.number(rule.probability):>11}"
        click.echo(f"{rule.finding:{width}}  {rule.positives:>9,}  {limit}  {values}")
    means = "  ".join(f"{heldout.number(learnt.macros[f'macro_{name}'], 3):>11}" for name in names)
    click.echo(f"{'mean over findings':{width}}  {'':>9}  {'':>9}  {'':>11}  {means}")
    for rule in learnt.rules:
        if rule.remark:
            click.echo(f"{rule.finding}: {rule.remark}")
