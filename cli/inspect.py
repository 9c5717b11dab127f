"""cxrdali inspect: what a packed dataset holds."""

import click

from cli.options import folders
from cli.options.folders import OUTPUT


@click.command()
@folders.pack_argument
@click.option(
    "--labels",
    "names",
    multiple=True,
    metavar="NAME",
    help="Label release to show; may be repeated.  [default: all attached]",
)
@click.option(
    "--html",
    type=OUTPUT,
    metavar="FILE",
    help="Page to write, with charts and a map of findings that occur together; its numbers go beside it as .json.",
)
@click.option("--images", is_flag=True, help="Include pictures of patients in the page (mind the data-use terms).")
@folders.cache_options
def inspect(pack, names, html, images):
    """Images, views, findings per split, findings that occur together, and patients in two splits of PACK.

    Compares label releases too: a model trained on one must not be tested on another that shares its patients.
    Nothing is changed.
    """
    from cxrdali.report.dataset.facts import read_facts
    from cxrdali.report.dataset.text import render

    if images and html is None:
        raise click.UsageError("--images puts pictures into a page; give --html FILE too")
    if html is not None:
        from cxrdali.report.dataset.page import check_writable, write_page

        check_writable(html, pack)
    dataset = folders.open_packed(pack)
    facts = read_facts(dataset, names)
    click.echo(render(facts))
    if html is not None:
        write_page(html, dataset, facts, images=images)
        click.echo(f"\n{html}: {html.stat().st_size / 1e6:.1f} MB")
