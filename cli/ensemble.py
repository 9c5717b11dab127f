"""cxrdali ensemble: the mean of several tables of predictions."""

from pathlib import Path

import click

from cli import tables


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@tables.out_option
@click.option(
    "--weights", metavar="W,W,...", help="One number above 0 per table, in the order of FILES.  [default: equal]"
)
@tables.kind_option
def ensemble(files, out, weights, kind):
    """Mean probability of several tables of logits for the same images, as `cxrdali predict` writes them.

    Images are matched by id and findings by name; the order is that of the first of FILES.
    """
    from cxrdali.ensemble import ensemble as mean
    from cxrdali.predictions import check_target

    check_target(out, *files)
    table = mean(files, _numbers(weights))
    for text in table.provenance.history:
        click.echo(text)
    tables.write(table, out, kind)


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r}: numbers with commas between them, such as 2,1,1") from None
