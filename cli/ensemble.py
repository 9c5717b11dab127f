"""cxrdali ensemble: several tables of predictions pooled into one."""

from pathlib import Path

import click

from cli.options import folders, heldout, tables
from cli.options.fields import Choice, field_options, filled
from cli.options.scores import aligned
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.postprocess.options import POOLINGS, FitOptions


class Paths(click.ParamType):
    """Files with commas between them."""

    name = "FILE,FILE,..."

    def convert(self, value, param, ctx):
        return value if isinstance(value, list) else [Path(part) for part in value.split(",")]


@click.command()
@click.argument("files", nargs=-1, required=True, type=folders.FILE)
@tables.out_option
@click.option(
    "--method",
    type=Choice(POOLINGS),
    default="mean",
    show_default=True,
    help="Mean of the probabilities; their geometric mean, which is the mean logit; or the mean rank among the table's "
    "images, which is no probability and depends on these images.",
)
@click.option(
    "--weights", metavar="W,W,...", help="One number above 0 per table, in the order of FILES.  [default: equal]"
)
@click.option(
    "--weights-by-map",
    type=Paths(),
    metavar="VAL,VAL,...",
    help="Weights proportional to the mAP of these tables of validation images: of the same runs, in the same order.",
)
@click.option(
    "--fit-weights",
    type=Paths(),
    metavar="VAL,VAL,...",
    help="Weights searched for a high mAP of these tables pooled; also says what they gain on subjects left out.",
)
@click.option("--folds", default=5, show_default=True, help="Parts by subject, each left out in turn by --fit-weights.")
@folders.data_option
@click.option("--labels", metavar="NAME", help="Label release of the validation tables.  [default: the one they name]")
@field_options(FitOptions, "findings")
@field_options(EvaluateOptions, "uncertain", "allow_leak", "allow_other_run", "allow_same_images")
@tables.kind_option
def ensemble(files, out, method, weights, weights_by_map, fit_weights, folds, data, labels, kind, **given):
    """Pool several tables of logits for the same images, as `cxrdali predict` writes them.

    Images are matched by id and findings by name; the order is that of the first of FILES. --weights-by-map and
    --fit-weights need the packed dataset for the labels.
    """
    from cxrdali.postprocess import ensemble as library
    from cxrdali.predictions import check_target

    options = filled(FitOptions, {**given, "folds": folds})
    sources = {"--weights": weights, "--weights-by-map": weights_by_map, "--fit-weights": fit_weights}
    named = [name for name, value in sources.items() if value is not None]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)}: weights come from one of them; give one")
    if method == "rank" and kind == "probability":
        raise click.UsageError("--method rank --as probability: a mean rank is no probability; leave --as out")
    validation = weights_by_map or fit_weights or ()
    check_target(out, *files, *validation)
    chosen = _numbers(weights)
    if validation:
        dataset, release = heldout.open_for_fit(validation[0], data, labels, given["findings"])
        if weights_by_map:
            chosen = library.weights_by_map(validation, dataset, release, options)
        else:
            chosen = library.fitted_weights(validation, dataset, release, method, options)
        heldout.warn_of_split({"predictions": validation[0].name, "split": chosen.fitted.split})
        _print(library.short_names(validation), chosen)
        if fit_weights:
            _say_gain(chosen, folds)
    allowed = (bool(given[name]) for name in ("allow_leak", "allow_other_run", "allow_same_images"))
    table = library.ensemble(files, chosen, method, *allowed)
    for text in table.provenance.seen or ():
        click.echo(f"note: {text}")
    for text in table.provenance.history:
        click.echo(text)
    tables.write(table, out, kind)


def _print(names: list[str], made) -> None:
    columns = zip(names, made.maps, made.values, strict=True)
    click.echo(
        aligned((name, f"validation mAP {reached:.4f}", f"weight {weight:.3f}") for name, reached, weight in columns)
    )


def _say_gain(made, folds: int) -> None:
    click.echo(
        f"validation mAP of the ensemble: {made.cross_fitted_map:.4f} cross-fitted over {folds} folds of subjects, "
        f"{made.equal_map:.4f} with equal weights, {max(made.maps):.4f} of the best table alone "
        f"({made.fitted_map:.4f} on the images that the weights were fitted to)"
    )
    if made.cross_fitted_map <= max(made.equal_map, *made.maps):
        better = "equal weights" if made.equal_map >= max(made.maps) else "the best table alone"
        click.echo(f"fitting gains nothing on subjects it has not seen: {better} did as well or better")


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r}: numbers with commas between them, such as 2,1,1") from None
