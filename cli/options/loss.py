"""The options of a loss, a sampler and an optimizer's schedule: what `train` and `retrain-head` have in common."""

import click

LOSSES = ("bce", "focal", "cb-focal", "asl", "ldam", "drw", "ldam-drw")
SAMPLERS = ("natural", "class-balanced", "sqrt", "progressive")


def loss_options(command):
    """--loss and its parameters; a parameter that is not given is None, the loss's own default."""
    options = (
        click.option(
            "--loss",
            type=click.Choice(LOSSES),
            default="bce",
            show_default=True,
            help="Training loss. Class counts are those of the training split, before any resampling.",
        ),
        click.option(
            "--pos-weight",
            type=click.Choice(["none", "sqrt", "ratio"]),
            help="bce: weight of positive terms: negatives per positive of each finding, its root, or none.  "
            "[default: none]",
        ),
        click.option("--focal-gamma", type=float, help="focal, cb-focal: focusing exponent.  [default: 2]"),
        click.option(
            "--focal-alpha", type=float, help="focal: weight of positive terms, 0 to 1; -1: none.  [default: -1]"
        ),
        click.option(
            "--cb-beta",
            type=float,
            help="cb-focal, drw, ldam-drw: of the effective number of images, below 1.  [default: 0.9999]",
        ),
        click.option("--asl-gamma-neg", type=float, help="asl: exponent of negative terms.  [default: 4]"),
        click.option("--asl-gamma-pos", type=float, help="asl: exponent of positive terms.  [default: 1]"),
        click.option("--asl-clip", type=float, help="asl: probability taken off negatives.  [default: 0.05]"),
        click.option("--ldam-margin", type=float, help="ldam, ldam-drw: the rarest finding's margin.  [default: 0.5]"),
        click.option(
            "--ldam-scale", type=float, help="ldam, ldam-drw: factor of the classifier's output.  [default: 30]"
        ),
        click.option(
            "--drw-epoch",
            type=int,
            help="drw, ldam-drw: epochs before positive terms are re-weighted.  [default: 10]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def sampler_option(default: str):
    return click.option(
        "--sampler",
        type=click.Choice(SAMPLERS),
        default=default,
        show_default=True,
        help="natural: every image once an epoch; class-balanced, sqrt: as many draws, with repeats, by the rarity of "
        "each image's rarest finding (images without any count as one more class); progressive: from natural in the "
        "first epoch to class-balanced in the last.",
    )


patience_option = click.option(
    "--patience",
    type=int,
    help="End after so many epochs without a better one; those before --drw-epoch do not count.  [default: never]",
)
