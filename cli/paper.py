"""cxrdali paper: the study of Yamagishi & Hanaoka (2023), from stage 1 to the submitted file."""

from pathlib import Path

import click

from cli.options import flows, folders
from cli.recipes import file_option


@click.command()
@folders.data_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of runs, predictions, evaluations, submission and report.  [default: paper; paper-demo for the demo]",
)
@click.option(
    "--models",
    default="0,2,3,5,6,7",
    show_default=True,
    metavar="LIST",
    help="Models to train; those that they start from come along.",
)
@flows.scale_option
@file_option
@flows.settings_option("model7")
@flows.labels_option
@click.option(
    "--tta",
    default="hflip",
    show_default=True,
    metavar="NAME",
    help="Test-time augmentation of every prediction, as `cxrdali predict --tta` lists them.",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    metavar="SPLIT=CSV",
    help="The challenge's sample submission for dev or test.  [default: a form of the labels' own]",
)
@flows.draws_option
@flows.dry_run_option
def paper(data, out, models, scale, file, settings, labels, tta, templates, draws, dry_run):
    """Train the stage-training paper's models in the order in which they need each other, predict validation,
    development and test, ensemble models 3, 5, 6 and 7, postprocess by view, evaluate every step, write submission and
    report.

    The same command again does what is missing: after a kill, after a file was deleted, after a setting changed. What
    a change outdates is redone, and nothing else; runs that stand in the way are moved to runs/replaced, not deleted.
    """
    from cxrdali.runs import recipes
    from cxrdali.studies.stage_training import PaperOptions, make_plan

    demo = scale == "demo"
    out = flows.folder_of("paper", out, data, demo)
    known = recipes.load(file or (recipes.DEMO if demo else None))
    options = PaperOptions(
        models=_models(models),
        labels=labels,
        tta=tta,
        draws=(flows.DEMO_DRAWS if demo else flows.DRAWS) if draws is None else draws,
        overrides=flows.overrides(settings, known),
        templates=_templates(templates),
        title="The stage-training paper" + (", demo" if demo else ""),
        synthetic=demo,
    )
    dataset = flows.open_dataset("paper", out, data, demo_sizes(known, options) if demo else None)
    plan = make_plan(out, dataset, known, options)
    flows.carry_out(out, plan, dry_run, dataset)


def demo_sizes(known, options) -> list[int]:
    """Sides in pixels that the demo's data is packed in."""
    from cxrdali.runs import recipes

    return flows.demo_sizes(recipes.DEMO, known, options.models, options.overrides)


def _models(text: str) -> tuple[str, ...]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(dict.fromkeys(f"model{name}" if name.isdigit() else name for name in names))


def _templates(given: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for text in given:
        split, equals, path = text.partition("=")
        if not equals or split not in ("dev", "test"):
            raise click.UsageError(f"--template {text!r}: write test=FILE or dev=FILE")
        found[split] = Path(path)
    return found
