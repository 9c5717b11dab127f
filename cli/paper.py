"""cxrdali paper: the study of Yamagishi & Hanaoka (2023), from stage 1 to the submitted file."""

import click

from cli.options import flows
from cli.options.fields import field_options
from cxrdali.studies.options import StudyOptions


@click.command()
@flows.study_options("paper", "model7")
@field_options(StudyOptions, "models", "tta")
@flows.template_option
def paper(**given):
    """Train the stage-training paper's models in the order in which they need each other, predict validation,
    development and test, ensemble models 3, 5, 6 and 7, postprocess by view, evaluate every step, write submission and
    report: `cxrdali study stage-training`.

    The same command again does what is missing: after a kill, after a file was deleted, after a setting changed. What
    a change outdates is redone, and nothing else; runs that stand in the way are moved to runs/replaced, not deleted.
    """
    flows.do("paper", "stage-training", given, lambda name, known: f"model{name}" if name.isdigit() else name)
