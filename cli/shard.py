"""cxrdali shard: from a release to a packed dataset."""

from pathlib import Path

import click

from cli.options import folders
from cli.options.table_options import read_columns, table_options
from shards.storage.remote import is_remote

REMOTE_JOBS = 4  # workers per core: at 50 ms a request they wait for the store most of the time
REMOTE_STALL = 300.0  # seconds; s3fs and botocore together try for 196 before they give a dead link up


@click.command()
@click.option(
    "--source",
    type=folders.Place(),
    metavar="DIR",
    help="The release: MIMIC-CXR-JPG, CXR-LT 2026 on PadChest, or ChestX-ray14, told by its tables; with --table the "
    "folder that the paths start from.  [default: $CXRDALI_SOURCE, else data/mimic-cxr-jpg]",
)
@click.option(
    "--out",
    type=folders.Place(),
    metavar="PACK",
    help="Packed dataset to make.  [default: $CXRDALI_DATA, else data/packed]",
)
@click.option(
    "--labels",
    "label_folders",
    multiple=True,
    type=folders.Place(),
    metavar="DIR",
    help="Folder of a label release (CXR-LT); may be repeated, the first is the default of training. "
    "Labels inside the release are found by themselves.",
)
@click.option(
    "--sizes",
    default="224,320,384,512",
    show_default=True,
    metavar="LIST",
    help="Sides in pixels, comma-separated; SIZE:raw stores pixels instead of JPEG (five times the speed, "
    "about four times the bytes).",
)
@click.option(
    "--fit",
    type=click.Choice(["squash", "pad", "crop"]),
    default="squash",
    show_default=True,
    help="How a rectangle becomes a square; squash is the paper's.",
)
@click.option("--quality", default=95, show_default=True, help="JPEG quality, 1 to 100.")
@click.option(
    "--window",
    type=click.Choice(["percentile", "minmax", "full"]),
    default="percentile",
    show_default=True,
    help="Which values of a 16-bit image become black and white: its 0.5 and 99.5 percentile, its smallest and "
    "largest, or 0 and 65,535 (the loss-design paper's; images of 12 bits or fewer are then rejected).",
)
@click.option("--shard-images", default=4096, show_default=True, help="Most images in a shard.")
@click.option(
    "--jobs",
    default=None,
    type=click.IntRange(min=1),
    help="Worker processes; the bytes are the same for any number.  [default: all cores; for a remote --source four "
    "times as many, as they wait]",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "dask"]),
    default="local",
    show_default=True,
    help="Who makes the shards: processes of this machine, or the workers of a Dask cluster (extra [dask]). The bytes "
    "are the same.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Of the Dask cluster, for example tcp://login1:8786; its workers must see --source and --out.  [default: a "
    "cluster of --jobs workers on this machine, for the time of packing]",
)
@click.option(
    "--part",
    metavar="I/N",
    help="Make only part I of N, beside other processes that make the others, on any machine that shares --out; when "
    "all are made, the same command without --part publishes.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the order of studies.")
@click.option(
    "--check-hashes",
    is_flag=True,
    help="Reject images that are not those of the release's SHA256SUMS.txt. Without it a flipped bit in an image that "
    "still decodes is not found.",
)
@click.option(
    "--max-reject-fraction",
    default=0.01,
    show_default=True,
    help="Share of the images that may be rejected, judged when all are read.",
)
@click.option("--allow-subject-overlap", is_flag=True, help="Pack labels that have a subject in two splits.")
@click.option("--allow-links", is_flag=True, help="Follow links that leave the release's folder.")
@click.option(
    "--stall",
    default=None,
    type=float,
    help="Seconds in which a worker must finish an image; raise it for slow storage.  [default: 25; 300 if --source "
    "or --out is remote]",
)
@click.option("--limit", default=None, type=int, help="Pack only so many images (whole studies), for a trial.")
@click.option("--dry-run", is_flag=True, help="Print counts, estimated bytes and minutes; write nothing.")
@table_options(images=True)
def shard(
    source, out, label_folders, sizes, fit, quality, window, shard_images, jobs, seed, limit, dry_run,
    check_hashes, allow_links, max_reject_fraction, allow_subject_overlap, stall, engine, scheduler, part, table,
    **columns,
):  # fmt: skip
    """Pack a release into WebDataset shards, a rendition per size.

    Can be killed at any moment: the same command finishes what is missing. On a finished dataset it does nothing.
    The release is only read. --source, --labels and --table may be s3://, gs:// or https://; --out s3:// or gs://.
    """
    from joblib import cpu_count

    from shards.packing.engine import Local
    from shards.packing.estimate import estimate
    from shards.packing.options import PackLimits, PackOptions, Part, PartSummary
    from shards.packing.pack import pack
    from shards.packing.rendition import Size
    from shards.releases.open import open_release
    from shards.releases.table import open_table

    if scheduler and (engine == "local" or jobs):
        wrong = "needs --engine dask" if engine == "local" else "takes no --jobs: its workers are all used"
        raise click.UsageError(f"--scheduler {wrong}")
    part = Part.parse(part) if part else None
    named = read_columns(table, columns, ("path_column", "id_column", "findings"))
    if named and label_folders:
        raise click.UsageError("--labels is for known releases; with --table the labels are the table's own")
    sizes = tuple(Size.parse(text) for text in sizes.split(","))
    options = PackOptions(sizes, fit, quality, shard_images, seed, limit, check_hashes, allow_links, window)
    source, out = folders.release(source), folders.packed(out)
    if stall is None:
        stall = REMOTE_STALL if is_remote(source) or is_remote(out) else PackLimits.stall
    limits = PackLimits(max_reject_fraction, allow_subject_overlap, stall)
    jobs = jobs or cpu_count() * (REMOTE_JOBS if is_remote(source) else 1)
    release = open_table(table, named, source) if named else open_release(source, label_folders)
    click.echo(f"{release.name}: {len(release.images):,} images in {source}")
    for note in release.notes:
        click.echo(f"  {note}")
    for labels in release.labels:
        counts = labels.table["split"].value_counts()
        parts = ", ".join(f"{counts.get(split, 0):,} {split}" for split in ("train", "dev", "test"))
        elsewhere = f"; {labels.elsewhere:,} more images are not in this release" if labels.elsewhere else ""
        click.echo(f"labels {labels.name}: {len(labels.findings)} findings; {parts}{elsewhere}")
        for note in labels.notes:
            click.echo(f"  {note}")
    if not release.labels:
        click.echo("no labels found: give --labels DIR, or the dataset can be read but not trained on")
    if dry_run:
        _print_estimate(estimate(release, options, jobs, limits=limits), jobs)
        return
    making = Local(jobs)
    if engine == "dask":
        from shards.packing.cluster import Dask

        making = Dask(scheduler, jobs)
        whose = f"those of {scheduler}" if scheduler else f"{jobs} of a Dask cluster that lasts as long as this run"
        click.echo(f"workers: {whose}")
    summary = pack(release, out, options, limits=limits, engine=making, part=part)
    if isinstance(summary, PartSummary):
        _print_part(out, summary)
        return
    if summary.already_finished:
        click.echo(f"{out}: already finished, nothing to do")
    _print_summary(out, summary)


def _print_estimate(found, jobs: int) -> None:
    click.echo(
        f"would pack {found.images:,} images, {found.studies:,} studies, {found.subjects:,} subjects "
        f"into {found.shards:,} shards per size"
    )
    for size, count in found.bytes_per_size.items():
        click.echo(f"  {size} px: about {_bytes(count)}")
    click.echo(
        f"about {_bytes(sum(found.bytes_per_size.values()))} and {found.minutes:,.1f} minutes with {jobs} "
        f"jobs (from {found.sampled} images packed in memory; nothing was written)"
    )
    for reason, count in found.rejected.items():
        click.echo(f"  {count} of the {found.sampled} would be rejected: {reason}")


def _print_summary(out: Path, summary) -> None:
    click.echo(
        f"{out}: {summary.packed:,} of {summary.planned:,} images packed, {summary.shards:,} shards per size, "
        f"{_bytes(summary.bytes)}"
    )
    for reason, count in summary.rejected.items():
        click.echo(f"  {count:,} rejected: {reason}")
    for kind, count in summary.converted.items():
        click.echo(f"  {count:,} converted to 8-bit gray baseline: {kind}")
    if summary.rejected:
        click.echo(f"  listed in {out / 'rejects.csv'}")
    _print_rate(summary)


def _print_part(out: Path, summary) -> None:
    part = summary.part
    click.echo(
        f"{out}: part {part.index} of {part.count} is made; {summary.finished:,} of {summary.shards:,} shards are"
    )
    _print_rate(summary)
    click.echo("when all are, the same command without --part publishes the dataset")


def _print_rate(summary) -> None:
    if summary.images_this_run:
        rate = summary.images_this_run / summary.seconds
        click.echo(f"{summary.images_this_run:,} images in {summary.seconds:,.1f} s, {rate:,.0f} images/s")


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            break
        count, unit = count / 1000, {"B": "KB", "KB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{count:,.1f} {unit}" if unit != "B" else f"{count:.0f} B"
