"""cxrdali loss-design: the study of the loss-design paper, from the losses to the report."""

import click

from cli.options import flows
from cli.options.fields import field_options
from cxrdali.studies.options import StudyOptions


@click.command()
@flows.study_options("loss-design", "ld-bce")
@field_options(StudyOptions, "models", "tta", "calibration", "thresholds")
def loss_design(**given):
    """Train the loss-design paper's models: losses on one network, LDAM-DRW on many, classifiers retrained (cRT).
    Predict validation, development and test, with test-time augmentation of the main model; average the backbones; fit
    weights, calibration and thresholds on validation; evaluate, compare, and write one report: `cxrdali study
    loss-design`.

    The same command again does what is missing: after a kill, after a file was deleted, after a setting changed. What
    a change outdates is redone, and nothing else; runs that stand in the way are moved to runs/replaced, not deleted.
    """
    flows.do("loss-design", "loss-design", given, lambda name, known: f"ld-{name}" if f"ld-{name}" in known else name)
