"""cxrdali postprocess: the stage-training paper's view postprocess."""

from pathlib import Path

import click

from cli.options import folders, tables


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--fit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="VAL_PRED",
    help="Learn the rules from these predictions, of images with labels (the paper: model3's on val).",
)
@click.option(
    "--rules",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="JSON",
    help="Or rules that were learnt before.",
)
@folders.data_option
@tables.out_option
@click.option(
    "--views",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="JSON",
    help="Where the rules of --fit are written.  [default: views.json beside --out]",
)
@click.option(
    "--labels", metavar="NAME", help="Label release for --fit.  [default: the run's; of a CSV, the dataset's first]"
)
@click.option(
    "--uncertain",
    type=click.Choice(["negative", "positive", "ignore"]),
    help="What -1 counts as in --fit; blanks are negative, or ignored with ignore.  [default: negative]",
)
@tables.kind_option
def postprocess(file, fit, rules, data, out, views, labels, uncertain, kind):
    """Let a study's lateral images take over the mean of its frontal predictions, for every finding whose AP is
    higher on frontal images than on all others. FILE holds logits, as `cxrdali predict` writes them.

    All other values stay as they are: frontal images, the other findings, studies with one kind of view.
    """
    if (fit is None) == (rules is None):
        raise click.UsageError("give one of --fit (predictions to learn from) and --rules (learnt before)")
    if rules is not None and any(option is not None for option in (views, labels, uncertain)):
        raise click.UsageError("--views, --labels and --uncertain belong to --fit, not to --rules")

    from cxrdali import predictions
    from cxrdali.postprocess import views as postprocessing
    from shards.errors import UserError

    predictions.check_target(out, *(path for path in (file, fit) if path))
    if fit is not None:
        views = views or out.with_name("views.json")
        if views.suffix != ".json":
            raise UserError(f"{views}: rules are written as .json; change the file's suffix")
        predictions.check_writable(views)
    dataset = folders.open_packed(data)
    if fit is not None:
        release = dataset.labels(labels or predictions.read(fit).provenance.labels)
        learnt = postprocessing.fit(fit, dataset, release, uncertain or "negative")
    else:
        learnt = postprocessing.read(rules)
    table, changed = postprocessing.apply(file, learnt, dataset)
    _print(learnt)
    click.echo(
        f"{file}: {changed.studies:,} studies with both kinds of view, in which {changed.images:,} lateral images "
        f"changed; left as they are: {changed.frontal_only:,} with frontal images only, "
        f"{changed.lateral_only:,} with lateral ones only"
    )
    if fit is not None:
        learnt.write(views)
        click.echo(f"{views}: rules learnt from {fit}")
    tables.write(table, out, kind)


def _print(rules) -> None:
    width = max(map(len, rules.findings))
    click.echo(f"{'':{width}}  {'frontal AP':>10}  {'lateral AP':>10}  {'difference':>10}  superior")
    for rule in rules.rules:
        numbers = "  ".join(_number(value) for value in (rule.frontal_ap, rule.lateral_ap))
        difference = "-" if rule.difference is None else f"{rule.difference:+.3f}"
        click.echo(f"{rule.finding:{width}}  {numbers}  {difference:>10}  {'yes' if rule.superior else 'no'}")
    click.echo(f"superior: {len(rules.superior)} of {len(rules.rules)} findings")
    for rule in rules.rules:
        if rule.without_ap:
            click.echo(rule.without_ap)


def _number(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>10}"
