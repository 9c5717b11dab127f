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
    default=None,
    help="Side of the square images in pixels, or native (2544 x 3056, as MIMIC-CXR's).  [default: 512, or the "
    "hospital's]",
)
@click.option("--seed", default=0, show_default=True, help="The same seed is the same release, byte for byte.")
@click.option(
    "--hospital",
    default=None,
    metavar="NAME|FILE",
    help="university, clinic, coast, harbour or the TOML of another: with its own machines, patients, findings and "
    "tables.",
)
@click.option(
    "--copies",
    default=None,
    type=(int, FOLDER),
    metavar="N DIR",
    help="N studies more that the hospital in DIR has too: its images, changed, under other ids.",
)
@click.option("--jobs", default=None, type=click.IntRange(min=1), help="Worker processes.  [default: all cores]")
def synth(studies, out, size, seed, hospital, copies, jobs):
    """Write a synthetic release, as MIMIC-CXR-JPG or as a hospital: rendered thoraces with 26 findings in a long tail.

    For demos, tests and benchmarks. It says nothing about patients.
    """
    from joblib import cpu_count

    from shards.errors import UserError
    from shards.synthetic.copies import read_options
    from shards.synthetic.hospital import open_hospital
    from shards.synthetic.plan import SyntheticOptions
    from shards.synthetic.release import write_release

    if size is not None and size != "native" and not size.isdecimal():
        raise UserError(f"size {size!r}: give pixels, for example 512, or native")
    place = open_hospital(hospital) if hospital else None
    side = (place.size if place else 512) if size is None else size if size == "native" else int(size)
    held = (copies[0], read_options(copies[1])) if copies else None
    options = SyntheticOptions(studies, side, seed, hospital=place, copies=held)
    summary = write_release(out, options, jobs=jobs or cpu_count())
    click.echo(
        f"{out}: {counted(summary.images, 'image')} of {counted(summary.studies, 'study')} and "
        f"{counted(summary.subjects, 'subject')}, "
        f"{summary.num_bytes / 1e6:,.1f} MB, {summary.images / summary.seconds:,.0f} images/s"
    )
