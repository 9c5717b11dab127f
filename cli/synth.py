"""cxrdali synth: a synthetic release."""

import click

from cli.options.folders import FOLDER
from shards.words import counted


@click.command()
@click.option("--studies", required=True, type=int, help="Number of studies (1 to 4 images each).")
@click.option(
    "--out",
    required=True,
    type=FOLDER,
    metavar="DIR",
    help="Folder to write: new, empty, or what a killed run of the same command left.",
)
@click.option(
    "--size",
    default="512",
    show_default=True,
    help="Side of the square images in pixels, or native (2544 x 3056, as MIMIC-CXR's).",
)
@click.option("--seed", default=0, show_default=True, help="The same seed is the same release, byte for byte.")
@click.option("--jobs", default=None, type=click.IntRange(min=1), help="Worker processes.  [default: all cores]")
def synth(studies, out, size, seed, jobs):
    """Write a synthetic MIMIC-CXR-JPG release: rendered thoraces with 26 findings in a long tail.

    For demos, tests and benchmarks. It says nothing about patients.
    """
    from joblib import cpu_count

    from shards.errors import UserError
    from shards.synthetic.plan import SyntheticOptions
    from shards.synthetic.release import write_release

    if size != "native" and not size.isdecimal():
        raise UserError(f"size {size!r}: give pixels, for example 512, or native")
    options = SyntheticOptions(studies, size if size == "native" else int(size), seed)
    summary = write_release(out, options, jobs=jobs or cpu_count())
    click.echo(
        f"{out}: {counted(summary.images, 'image')} of {counted(summary.studies, 'study')} and "
        f"{counted(summary.subjects, 'subject')}, "
        f"{summary.num_bytes / 1e6:,.1f} MB, {summary.images / summary.seconds:,.0f} images/s"
    )
