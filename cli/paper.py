"""cxrdali paper: the study of Yamagishi & Hanaoka (2023), from stage 1 to the submitted file."""

from pathlib import Path

import click

from cli.options import flows
from cli.options.fields import field_options
from cxrdali.studies.options import PaperOptions


@click.command()
@flows.study_options("paper", "model7")
@field_options(PaperOptions, "models", "tta")
@click.option(
    "--template",
    "templates",
    multiple=True,
    metavar="SPLIT=CSV",
    help="The challenge's sample submission for dev or test.  [default: a form of the labels' own]",
)
def paper(models, templates, dry_run, **given):
    """Train the stage-training paper's models in the order in which they need each other, predict validation,
    development and test, ensemble models 3, 5, 6 and 7, postprocess by view, evaluate every step, write submission and
    report.

    The same command again does what is missing: after a kill, after a file was deleted, after a setting changed. What
    a change outdates is redone, and nothing else; runs that stand in the way are moved to runs/replaced, not deleted.
    """
    from cxrdali.runs.recipes import DEMO
    from cxrdali.studies.stage_training import make_plan

    own = {"templates": _templates(templates)}
    if models is not None:
        own["models"] = tuple(dict.fromkeys(f"model{name}" if name.isdigit() else name for name in models))
    out, dataset, known, options = flows.prepare("paper", PaperOptions, DEMO, given, **own)
    flows.carry_out(out, make_plan(out, dataset, known, options), dry_run, dataset)


def _templates(given: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for text in given:
        split, equals, path = text.partition("=")
        if not equals or split not in ("dev", "test"):
            raise click.UsageError(f"--template {text!r}: write test=FILE or dev=FILE")
        found[split] = Path(path)
    return found
