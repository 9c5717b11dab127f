"""cxrdali loss-design: the study of the loss-design paper, from the losses to the report."""

from pathlib import Path

import click

from cli import flows
from cli.options import folders
from cli.recipes import file_option
from cxrdali.postprocess.options import CALIBRATIONS


@click.command()
@folders.data_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of runs, predictions, evaluations and report.  [default: loss-design; loss-design-demo for the demo]",
)
@click.option(
    "--models",
    metavar="LIST",
    help="Models to train; those that they start from come along. A name without its ld- is enough: bce,ldam-drw,crt.  "
    "[default: the seven losses on ResNet-50, LDAM-DRW on its backbones, cRT]",
)
@flows.scale_option
@file_option
@flows.settings_option("ld-bce")
@flows.labels_option
@click.option(
    "--tta",
    default="hflip,light,medium",
    show_default=True,
    metavar="LIST",
    help="Test-time augmentations of the main model (where cRT starts from), or none; all else is predicted without.",
)
@click.option(
    "--calibration",
    type=click.Choice(CALIBRATIONS),
    default="platt",
    show_default=True,
    help="Of the final predictions, fitted on validation; the main model is calibrated by each of them.",
)
@click.option(
    "--thresholds",
    "strategy",
    default="f1",
    show_default=True,
    metavar="STRATEGY",
    help="Of the thresholds, fitted on validation: f1, precision=P, recall=R or prevalence.",
)
@flows.draws_option
@flows.dry_run_option
def loss_design(data, out, models, scale, file, settings, labels, tta, calibration, strategy, draws, dry_run):
    """Train the loss-design paper's models: seven losses on one network, LDAM-DRW on many, the classifier of the best
    one anew (cRT). Predict validation, development and test, with test-time augmentation of the main model; average
    the backbones; fit weights, calibration and thresholds on validation; evaluate, compare, and write one report.

    The same command again does what is missing: after a kill, after a file was deleted, after a setting changed. What
    a change outdates is redone, and nothing else; runs that stand in the way are moved to runs/replaced, not deleted.
    """
    from cxrdali.runs import recipes
    from cxrdali.studies.loss_design import StudyOptions, make_plan, write_record

    demo = scale == "demo"
    out = flows.folder_of("loss-design", out, data, demo)
    own = recipes.LOSS_DESIGN_DEMO if demo else recipes.LOSS_DESIGN
    known = recipes.load(file or (recipes.LOSS_DESIGN_DEMO if demo else None))
    options = StudyOptions(
        models=_models(models, recipes.read(own)),
        labels=labels,
        tta=tuple(name for name in _list(tta) if name != "none"),
        calibration=calibration,
        strategy=strategy,
        draws=(flows.DEMO_DRAWS if demo else flows.DRAWS) if draws is None else draws,
        overrides=flows.overrides(settings, known),
        title="The loss-design paper" + (", demo" if demo else ""),
        synthetic=demo,
    )
    sizes = flows.demo_sizes(own, known, options.models, options.overrides) if demo else None
    dataset = flows.open_dataset("loss-design", out, data, sizes)
    plan, record = make_plan(out, dataset, known, options)
    flows.carry_out(out, plan, dry_run, dataset, begin=lambda: write_record(out, record))


def _models(text: str | None, own) -> tuple[str, ...]:
    """`own`: the study's recipes by name; a name without its ld- is enough for one of them."""
    if text is None:
        return tuple(own)
    return tuple(dict.fromkeys(f"ld-{name}" if f"ld-{name}" in own else name for name in _list(text)))


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
