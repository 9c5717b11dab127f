"""cxrdali submit: predictions in the form that a challenge asks for."""

import click

from cli.options.folders import FILE, FOLDER, OUTPUT
from shards.words import counted


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--template",
    required=True,
    type=FILE,
    metavar="CSV",
    help="The challenge's sample_submission.csv: its header, its rows and their order are kept.",
)
@click.option("--out", required=True, type=OUTPUT, metavar="ZIP", help="Zip to write.")
@click.option(
    "--code",
    type=FOLDER,
    metavar="DIR",
    help="Folder whose files go into the zip as code/, without .git, __pycache__ and *.pyc.",
)
@click.option(
    "--name",
    default="predictions.csv",
    show_default=True,
    help="The table's name in the zip. The challenges' own names are not confirmed: see the challenge's page.",
)
def submit(file, template, out, code, name):
    """Write FILE, what `cxrdali predict` or another command wrote, as a challenge's submission: probabilities in the
    template's form, zipped (with the code), and read back to be checked.

    How the challenges want zip and table named is not published; the form here is that of published entries, and --name
    changes the table's name.
    """
    from cxrdali.postprocess.submission import submit as write

    done = write(file, template, out, code, name)
    click.echo(
        f"{out}: {name} with {counted(done.images, 'image')} and {counted(len(done.findings), 'finding')}, "
        f"as in {template}"
    )
    if done.copied:
        click.echo(f"copied from the template: {', '.join(done.copied)}")
    if done.left_out:
        click.echo(f"predicted, but not asked for: {', '.join(done.left_out)}")
    if code:
        click.echo(f"code/: {counted(len(done.code), 'file')} of {code}")
    if done.skipped:
        click.echo(f"not in code/: {', '.join(done.skipped)}")
