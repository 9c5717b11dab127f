"""cxrdali submit: predictions in the form that a challenge asks for."""

import click

from cli.options.fields import Choice
from cli.options.folders import FILE, FOLDER, OUTPUT
from cxrdali.postprocess.forms import FORMS
from shards.words import counted


@click.command()
@click.argument("file", type=FILE)
@click.option(
    "--template",
    type=FILE,
    metavar="CSV",
    help="The challenge's sample_submission.csv: its header, its rows and their order are kept. With --form its rows "
    "and their order alone; what names it has are to be the form's.",
)
@click.option(
    "--form",
    type=Choice(FORMS),
    help="The challenge, whose columns are known: no template is needed, and FILE's images are written in its order.",
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
    help="The table's name in the zip. The challenges' own names are not confirmed: see the challenge's page.  "
    "[default: predictions.csv; of form cxr-lt-2026 submission.csv]",
)
def submit(file, template, form, out, code, name):
    """Write FILE, what `cxrdali predict` or another command wrote, as a challenge's submission: probabilities in the
    template's form, or a challenge's (--form), zipped (with the code), and read back to be checked.

    How the challenges want zip and table named is not published; the form here is that of published entries, and --name
    changes the table's name.
    """
    from cxrdali.postprocess.submission import submit as write

    if template is None and form is None:
        raise click.UsageError("give --form, of a challenge that is known, or --template, the challenge's file")
    wanted = FORMS[form] if form else None
    done = write(file, template, out, code, name, wanted)
    like = " and ".join(each for each in (form and f"form {form}", template and f"as in {template}") if each)
    click.echo(
        f"{out}: {done.name} with {counted(done.images, 'image')} and {counted(len(done.findings), 'finding')}, {like}"
    )
    if done.copied:
        click.echo(f"copied from the template: {', '.join(done.copied)}")
    if done.left_out:
        click.echo(f"predicted, but not asked for: {', '.join(done.left_out)}")
    if code:
        click.echo(f"code/: {counted(len(done.code), 'file')} of {code}")
    if done.skipped:
        click.echo(f"not in code/: {', '.join(done.skipped)}")
