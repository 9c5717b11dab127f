"""cxrdali verify: what a packed dataset lost or changed."""

import click

from cli.options import folders
from shards.words import counted


@click.command()
@folders.pack_argument
@click.option("--deep", is_flag=True, help="Decode every rendition too, and compare the content.")
@click.option(
    "--sizes", metavar="LIST", help="Check only these sizes, which must be here.  [default: those that are here]"
)
@click.option("--jobs", default=None, type=click.IntRange(min=1), help="Worker processes.  [default: all cores]")
def verify(pack, deep, sizes, jobs):
    """Check counts, sizes and sha256 of every file of PACK, and its tars against indexes and catalog.

    Exit code 1 if anything is wrong; every problem is printed with its file.
    """
    from joblib import cpu_count

    from shards.packing.verify import verify as check

    report = check(pack, deep, jobs or cpu_count(), sizes.split(",") if sizes else None)
    for name in report.absent:
        click.echo(f"{pack / name}: not here, so not checked; --sizes {name} asks for it")
    for problem in report.problems:
        shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in problem)
        click.echo(shown, err=True)
    if report.problems:
        click.echo(
            f"error: {pack}: {counted(len(report.problems), 'problem')}; restore the files, or delete damaged "
            "shards and give the same `cxrdali shard` again, which makes them anew",
            err=True,
        )
        raise click.exceptions.Exit(1)
    done = "every rendition decoded" if deep else "not decoded (--deep)"
    counts = f"{counted(report.shards, 'shard')}, {counted(report.samples, 'sample')}, {report.num_bytes:,} bytes"
    click.echo(f"{pack}: whole; {counts}; {done}")
