"""cxrdali verify: what a packed dataset lost or changed."""

import click

from cli.options import folders


@click.command()
@folders.pack_argument
@click.option("--deep", is_flag=True, help="Decode every rendition too.")
@click.option("--jobs", default=None, type=click.IntRange(min=1), help="Worker processes.  [default: all cores]")
def verify(pack, deep, jobs):
    """Check counts, sizes and sha256 of every file of PACK, and its tars against indexes and catalog.

    Exit code 1 if anything is wrong; every problem is printed with its file.
    """
    from joblib import cpu_count

    from shards.packing.verify import verify as check

    report = check(pack, deep, jobs or cpu_count())
    for problem in report.problems:
        click.echo(problem, err=True)
    if report.problems:
        click.echo(
            f"error: {pack}: {len(report.problems)} problems; restore the files, or delete them and pack again",
            err=True,
        )
        raise click.exceptions.Exit(1)
    done = "every rendition decoded" if deep else "not decoded (--deep)"
    counts = f"{report.shards:,} shards, {report.samples:,} samples, {report.num_bytes:,} bytes"
    click.echo(f"{pack}: whole; {counts}; {done}")
