"""cxrdali study: runs, grids, ensembles, comparisons and pages, as a file describes them."""

import click

from cli.options import flows
from cli.options.fields import field_options
from cli.options.folders import FOLDER
from cli.options.imports import quick_imports
from cli.options.scores import aligned
from cxrdali.studies.options import StudyOptions


@click.command()
@click.argument("file_or_name", metavar="FILE.toml|NAME")
@flows.study_options("FILE", "net")
@field_options(StudyOptions, "models", "tta", "calibration", "thresholds")
@flows.template_option
@click.option(
    "--table", is_flag=True, help="Show the numbers that there are, and write them beside the runs; do nothing."
)
@click.option(
    "--over",
    multiple=True,
    type=FOLDER,
    metavar="DIR",
    help="With --table: folders of this study to pool, each a repeat with data or seeds of its own; may be repeated. "
    "The table is written to --out.",
)
@click.option("--yes", "many", is_flag=True, help="Train more than 1,000 runs.")
def study(file_or_name, table, over, **given):
    """Do what a study's file describes, or one of the package: stage-training, loss-design, cxr-lt-2026,
    parts, lr-batch, stages, external.

    \b
    [runs.small]                                  a file of six lines: 2 learning rates x 2 seeds
    recipe = "model0"
    model = { arch = "resnet10t", pretrained = false }
    optimizer = { epochs = 3, batch = 32 }
    data.size = 64
    grid = { lr = [1e-3, 3e-4], seed = [0, 1] }

    docs/studies.md says what a file may say. The same command again does what is missing: after a kill, after a file
    was deleted, after a change of the file. What a change outdates is redone, and nothing else. A run that fails is
    recorded, and what does not need it goes on.
    """
    if over and not table:
        raise click.UsageError("--over pools folders into one table: give --table too")
    if table:
        _show_table(file_or_name, over, given)
    else:
        flows.do(None, file_or_name, given)


def _show_table(name, over, given):
    with quick_imports():
        from cxrdali.report.study.table import parts
        from cxrdali.studies.pooled import pooled_table
        from cxrdali.studies.shipped import open_study
        from cxrdali.studies.table import study_table
        from cxrdali.studies.table_files import write_files

    demo = given["scale"] == "demo"
    out = flows.folder_of(open_study(name).source.path.stem, given["out"], given["data"], demo)
    result = pooled_table(over) if over else study_table(out)
    for each in parts(result):
        heads = [[name for name, _ in each.columns]]
        left = [place for place, (_, kind) in enumerate(each.columns) if kind == "text"]
        click.echo(f"{each.caption}\n{aligned([*heads, *each.texts()], left)}\n")
    for note in result["notes"]:
        click.echo(f"note: {note}")
    out.mkdir(parents=True, exist_ok=True)
    click.echo(f"{', '.join(map(str, write_files(result, out)))}")
