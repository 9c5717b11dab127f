"""cxrdali loss-design: the study of the loss-design paper, from the losses to the report."""

import click

from cli.options import flows
from cli.options.fields import field_options
from cxrdali.studies.options import StudyOptions


@click.command()
@flows.study_options("loss-design", "ld-bce")
@field_options(StudyOptions, "models", "tta", "calibration")
@click.option(
    "--thresholds",
    "strategy",
    default="f1",
    show_default=True,
    metavar="STRATEGY",
    help="Of the thresholds, fitted on validation: f1, precision=P, recall=R or prevalence.",
)
def loss_design(models, dry_run, **given):
    """Train the loss-design paper's models: losses on one network, LDAM-DRW on many, classifiers retrained (cRT).
    Predict validation, development and test, with test-time augmentation of the main model; average the backbones; fit
    weights, calibration and thresholds on validation; evaluate, compare, and write one report.

    The same command again does what is missing: after a kill, after a file was deleted, after a setting changed. What
    a change outdates is redone, and nothing else; runs that stand in the way are moved to runs/replaced, not deleted.
    """
    from cxrdali.runs import recipes
    from cxrdali.studies.loss_design import make_plan, write_record

    file = recipes.LOSS_DESIGN_DEMO if given["scale"] == "demo" else recipes.LOSS_DESIGN
    known = recipes.read(file)
    names = known if models is None else [f"ld-{name}" if f"ld-{name}" in known else name for name in models]
    given["models"] = tuple(dict.fromkeys(names))
    if given["tta"] is not None:
        given["tta"] = tuple(name for name in given["tta"] if name != "none")
    out, dataset, known, options = flows.prepare("loss-design", StudyOptions, recipes.LOSS_DESIGN_DEMO, given)
    plan, record = make_plan(out, dataset, known, options)
    flows.carry_out(out, plan, dry_run, dataset, begin=lambda: write_record(out, record))
