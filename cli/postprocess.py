"""cxrdali postprocess: the view postprocess of Yamagishi & Hanaoka (2023), the study mean, and normal gating."""

import click

from cli.options import folders, heldout, tables
from cli.options.fields import field_options, filled
from cli.options.folders import FILE, OUTPUT
from cli.options.scores import aligned, number
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.postprocess.options import FitOptions
from shards.words import counted


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--fit",
    type=FILE,
    metavar="VAL_PRED",
    help="Fit the rules to these predictions, of images with labels (in the paper: those of model3 on val).",
)
@click.option("--rules", type=FILE, metavar="JSON", help="Or rules that were fitted before.")
@click.option(
    "--study-mean",
    is_flag=True,
    help="Instead of rules: every image gets the mean of its study's mean probability over frontal images and that "
    "over lateral ones (Yamagishi, CXR-LT 2024).",
)
@click.option(
    "--gate",
    metavar="FINDING",
    help='Instead of rules: every other probability times (1 - that of this finding)^strength, as "No Finding" (first '
    "place of CXR-LT 2026; it can cost: compare on validation).",
)
@click.option("--strength", type=float, help="Of --gate, above 0.  [default: 0.5]")
@folders.data_option
@tables.out_option
@click.option(
    "--views",
    type=OUTPUT,
    metavar="JSON",
    help="Where the rules of --fit are written.  [default: views.json beside --out]",
)
@heldout.labels_option
@field_options(FitOptions, "uncertain", "folds", "allow_leak", "findings")
@field_options(EvaluateOptions, "allow_other_run", "allow_same_images")
@tables.kind_option
def postprocess(file, fit, rules, data, out, views, labels, kind, allow_other_run, allow_same_images, **given):
    """Let a study's lateral images take over the mean of its frontal predictions, for every finding whose AP is
    higher on frontal images than on all others and that 10 patients or more have in either. FILE holds logits, as
    `cxrdali predict` writes them.

    All other values stay as they are: frontal images, the other findings, studies with one kind of view. Validation
    images of --fit take over values by rules fitted to the other parts of the subjects, so that their score is not too
    good; --rules, or --allow-same-images, uses the rules themselves, as in the paper, and the table says so.

    --study-mean and --gate do something else instead, for which nothing is fitted.
    """
    study_mean, gate, strength = (given.pop(name) for name in ("study_mean", "gate", "strength"))
    of_rules = {"views": views, "labels": labels, **given}
    if study_mean or gate is not None:
        allowed = {"allow_other_run": allow_other_run, "allow_same_images": allow_same_images}
        _check_alone(study_mean, gate, strength, fit=fit, rules=rules, **of_rules, **allowed)
        _without_rules(file, gate, strength, data, out, kind)
        return
    if strength is not None:
        raise click.UsageError("--strength belongs to --gate FINDING, which was not given")
    heldout.check_fit_or_rules(fit, rules, **of_rules)

    from cxrdali import predictions
    from cxrdali.postprocess import views as library

    predictions.check_target(out, *(path for path in (file, fit) if path))
    if fit is not None:
        views = views or out.with_name("views.json")
        heldout.check_json(views)
        dataset, release = heldout.open_for_fit(fit, data, labels, given["findings"])
        fitted = library.fit(fit, dataset, release, filled(FitOptions, given))
        heldout.warn_of_split(fitted.made_from)
    else:
        dataset, fitted = folders.open_dataset(data, given["findings"]), library.read(rules)
    table, changed = library.apply(file, fitted, dataset, bool(allow_other_run), bool(allow_same_images))
    _print(fitted)
    click.echo(
        f"{file}: {counted(changed.studies, 'study')} with both kinds of view, in which "
        f"{counted(changed.images, 'lateral image')} changed; left as they are: "
        f"{changed.frontal_only:,} with frontal images only, {changed.lateral_only:,} with lateral ones only"
    )
    if fit is not None:
        fitted.write(views)
        click.echo(f"{views}: rules fitted to {fit}")
        if "cross-fitted" in table.provenance.history[-1]:
            click.echo(
                f"{out}: cross-fitted; `--rules {views}` uses the rules themselves, as the paper did, and says so"
            )
    tables.write(table, out, kind)


def _check_alone(study_mean, gate, strength, **of_rules) -> None:
    """Raises click.UsageError for two things at once, or an option of rules beside one that has none."""
    one = "--study-mean" if study_mean else "--gate"
    if study_mean and (gate is not None or strength is not None):
        raise click.UsageError("--study-mean and --gate are two steps; give one, then the other to what it wrote")
    for name, value in of_rules.items():
        if value is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} belongs to rules for views; {one} has none")


def _without_rules(file, gate, strength, data, out, kind) -> None:
    from cxrdali import predictions
    from cxrdali.postprocess import gate as gating
    from cxrdali.postprocess import study_mean

    predictions.check_target(out, file)
    if gate is not None:
        table = gating.apply(file, gate, gating.STRENGTH if strength is None else strength)
    else:
        table, done = study_mean.apply(file, folders.open_dataset(data))
        click.echo(
            f"{file}: {counted(done.both, 'study')} with frontal and lateral images, {done.frontal_only:,} with "
            f"frontal, {done.lateral_only:,} with lateral, {done.neither:,} with neither; "
            f"{counted(done.taking, 'image')} of another or no known view took a value and gave none"
        )
    tables.write(table, out, kind)


def _print(rules) -> None:
    rows = [("", "frontal AP", "lateral AP", "difference", "superior")]
    for rule in rules.rules:
        difference = "-" if rule.difference is None else f"{rule.difference:+.3f}"
        superior = "yes" if rule.superior else "no rule" if rule.without_rule else "no"
        rows.append((rule.finding, number(rule.frontal_ap), number(rule.lateral_ap), difference, superior))
    click.echo(aligned(rows, left=(0, 4)))
    click.echo(f"superior: {len(rules.superior)} of {counted(len(rules.rules), 'finding')}")
    for rule in rules.rules:
        if rule.without_rule:
            click.echo(rule.without_rule)
    if rules.map_after is not None:
        click.echo(
            f"mAP of {rules.made_from['predictions']} {number(rules.map_before, 4)} -> {number(rules.map_after, 4)}, "
            f"cross-fitted over {counted(rules.made_from['folds'], 'part')} by subject"
        )
