"""cxrdali shard: from a release to a packed dataset."""

from pathlib import Path

import click

from cli.options import folders, next_command
from cli.options.fields import Choice, filled
from cli.options.table_options import read_columns, release_option, table_options
from shards.packing.options import ENGINES, PackLimits, PackOptions, Part
from shards.renditions.options import FITS, WINDOWS, Size
from shards.storage.places import storage_of
from shards.words import counted

REMOTE_JOBS = 4  # workers per core: at 50 ms a request they wait for the store most of the time
REMOTE_STALL = 300.0  # seconds; s3fs and botocore together try for 196 before they give a dead link up


@click.command()
@click.option(
    "--source",
    type=folders.Place(),
    metavar="DIR",
    help="The release; its kind is detected from its tables (`cxrdali releases` lists them). With --table the folder "
    "that the paths start from.  [default: $CXRDALI_SOURCE, else data/mimic-cxr-jpg]",
)
@click.option(
    "--out",
    type=folders.Place(),
    metavar="PACK",
    help="Packed dataset to make.  [default: $CXRDALI_DATA, else data/packed]",
)
@folders.label_folders_option(
    "Folder of a label release (CXR-LT); may be repeated, the first is the default of training. Labels inside the "
    "release are found by themselves. Of CXR-LT 2026 also the table of the test images, as a file."
)
@click.option(
    "--sizes",
    metavar="LIST",
    help="Sides in pixels, comma-separated; SIZE:raw stores pixels instead of JPEG (loads several times "
    "as fast, four to five times the bytes). Those that a finished dataset lacks are made beside the others.  "
    "[default: 224,320,384,512; of a finished dataset, its own]",
)
@click.option(
    "--drop-size",
    "dropped",
    multiple=True,
    metavar="PIXELS",
    help="Remove a size from the finished dataset in --out, and do nothing else; may be repeated.",
)
@click.option(
    "--fit",
    type=Choice(FITS),
    default=PackOptions.fit,
    show_default=True,
    help="How a rectangle becomes a square; the stage-training paper squashes.",
)
@click.option("--quality", default=PackOptions.quality, show_default=True, help="JPEG quality, 1 to 100.")
@click.option(
    "--window",
    type=Choice(WINDOWS),
    default=PackOptions.window,
    show_default=True,
    help="Which values of a 16-bit image become black and white: its 0.5 and 99.5 percentile, its smallest and "
    "largest, 0 and 65,535 (as the loss-design paper; images of 12 bits or fewer are then rejected), or those of a "
    "DICOM's own window (percentile without one).",
)
@click.option("--shard-images", default=PackOptions.shard_images, show_default=True, help="Most images in a shard.")
@click.option(
    "--jobs",
    default=None,
    type=click.IntRange(min=1),
    help="Worker processes; the bytes are the same for any number.  [default: all cores; for a remote --source four "
    "times as many, as they wait]",
)
@click.option(
    "--engine",
    type=Choice(ENGINES),
    default=ENGINES[0],
    show_default=True,
    help="Who makes the shards: processes of this machine, or the workers of a Dask cluster (extra [dask]). The bytes "
    "are the same.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler, for example tcp://login1:8786; its workers must see --source and --out.  [default: a "
    "cluster of --jobs workers on this machine, for the time of packing]",
)
@click.option(
    "--part",
    metavar="I/N",
    help="Make only part I of N, beside other processes that make the others, on any machine that shares --out; when "
    "all are made, the same command without --part publishes.",
)
@click.option("--seed", default=PackOptions.seed, show_default=True, help="Seed of the order of studies.")
@click.option(
    "--check-hashes",
    is_flag=True,
    help="Reject images that are not those of the release's SHA256SUMS.txt. Without it a flipped bit in an image that "
    "still decodes is not found.",
)
@click.option(
    "--max-reject-fraction",
    default=PackLimits.max_reject_fraction,
    show_default=True,
    help="Largest share of images that may be rejected, 0 to 1; checked after all are read.",
)
@click.option("--allow-subject-overlap", is_flag=True, help="Pack labels that have a subject in two splits.")
@click.option("--allow-links", is_flag=True, help="Follow links that leave the release's folder.")
@click.option(
    "--stall",
    default=None,
    type=float,
    help="Seconds for an image: if decoding takes longer it is rejected, if the storage takes longer the run ends.  "
    "[default: 25; 300 if --source or --out is remote]",
)
@click.option("--limit", default=None, type=int, help="Pack only so many images (whole studies), for a trial.")
@click.option("--dry-run", is_flag=True, help="Print counts, estimated bytes and minutes; write nothing.")
@release_option
@table_options(images=True)
@click.pass_context
def shard(
    context, source, out, label_folders, release, table, jobs, engine, scheduler, part, dry_run, dropped, **given
):
    """Pack a release into WebDataset shards, a rendition per size.

    Can be killed at any moment: the same command finishes what is missing. To a finished dataset it adds rejected
    images that can be read now, and sizes that it lacks. The release is only read. --source, --labels and --table may
    be s3://, gs:// or https://; --out s3:// or gs://.
    """
    from joblib import cpu_count

    from shards.packing.change import stored_sizes
    from shards.packing.engine import Local
    from shards.packing.estimate import estimate
    from shards.packing.job import PackJob, PartSummary
    from shards.packing.pack import pack_job
    from shards.releases.open import open_release
    from shards.releases.table import open_table

    if dropped:
        _drop(context, folders.packed(out), [name for text in dropped for name in text.split(",")])
        return
    if scheduler and (engine == "local" or jobs):
        wrong = "needs --engine dask" if engine == "local" else "takes no --jobs: its workers are all used"
        raise click.UsageError(f"--scheduler {wrong}")
    part = Part.parse(part) if part else None
    named = read_columns(table, given, ("path_column", "id_column", "findings"))
    if named and (label_folders or release):
        what = "--labels" if label_folders else "--release"
        raise click.UsageError(f"{what} is for known releases; with --table the labels are the table's own")
    given_out, source, out = out, folders.release(source), folders.packed(out)
    sizes = tuple(map(Size.parse, given["sizes"].split(","))) if given["sizes"] else stored_sizes(out)
    options = filled(PackOptions, {**given, "sizes": sizes or PackOptions.sizes})
    near = storage_of(source).local
    if given["stall"] is None:
        given["stall"] = PackLimits.stall if near and storage_of(out).local else REMOTE_STALL
    limits = filled(PackLimits, given)
    jobs = jobs or cpu_count() * (1 if near else REMOTE_JOBS)
    how = release, given["join_rows"]
    found = open_table(table, named, source) if named else open_release(source, label_folders, *how)
    _print_release(found)
    if dry_run:
        _print_estimate(estimate(found, options, jobs, limits=limits), jobs)
        return
    making = Local(jobs)
    if engine == "dask":
        from shards.packing.cluster import Dask

        making = Dask(scheduler, jobs)
        whose = f"those of {scheduler}" if scheduler else f"{jobs} of a Dask cluster that lasts as long as this run"
        click.echo(f"workers: {whose}")
    summary = pack_job(PackJob(found, out, options, limits, part), making)
    if isinstance(summary, PartSummary):
        _print_part(out, summary)
    else:
        _print_summary(out, summary)
        pack = () if given_out is None else ("--data", out)
        look = next_command.line("inspect", *pack)
        next_command.say(*([next_command.line("train", "--stage", 1, *pack)] if found.labels else []), look)


def _drop(context, out, names: list[str]) -> None:
    from shards.packing.change import drop_sizes

    given = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]
    if others := sorted(set(given) - {"dropped", "out"}):
        option = next(each.opts[0] for each in context.command.params if each.name == others[0])
        raise click.UsageError(f"--drop-size takes no other option than --out, not {option}")
    drop_sizes(out, names)
    click.echo(f"{out}: dropped {', '.join(f'{name} px' for name in names)}; nothing else has changed")


def _print_release(release) -> None:
    from shards.releases.folder import NAME as FOLDER

    click.echo(f"{release.name}: {counted(len(release.images), 'image')} in {release.root}")
    for note in release.notes:
        click.echo(f"  {note}")
    for labels in release.labels:
        counts = labels.table["split"].value_counts()
        parts = ", ".join(f"{counts.get(split, 0):,} {split}" for split in ("train", "dev", "test"))
        elsewhere = f"; {labels.elsewhere:,} more images are not in this release" if labels.elsewhere else ""
        click.echo(f"labels {labels.name}: {counted(len(labels.findings), 'finding')}; {parts}{elsewhere}")
        for note in labels.notes:
            click.echo(f"  {note}")
    if not release.labels:
        fix = "attach a table of them with cxrdali label --table" if release.name == FOLDER else "give --labels DIR"
        click.echo(f"no labels found: {fix}, or the dataset can be read but not trained on")


def _print_estimate(found, jobs: int) -> None:
    from cxrdali.report.kit.numbers import storage

    click.echo(
        f"would pack {counted(found.images, 'image')}, {counted(found.studies, 'study')}, "
        f"{counted(found.subjects, 'subject')} into {counted(found.shards, 'shard')} per size"
    )
    for size, count in found.num_bytes.items():
        click.echo(f"  {size} px: about {storage(count)}")
    click.echo(
        f"about {storage(sum(found.num_bytes.values()))} and {found.minutes:,.1f} minutes with "
        f"{counted(jobs, 'job')} (from {counted(found.sampled, 'image')} packed in memory; nothing was written)"
    )
    for reason, count in found.rejected.items():
        click.echo(f"  {count} of the {found.sampled} would be rejected: {reason}")


def _print_summary(out: Path, summary) -> None:
    from cxrdali.report.kit.numbers import storage

    if summary.already_finished:
        rejected = sum(summary.rejected.values())
        still = f"; rejected files: {rejected:,}, none of which has changed since" if rejected else ""
        click.echo(f"{out}: already finished, nothing to do{still}")
    click.echo(
        f"{out}: {summary.packed:,} of {counted(summary.planned, 'image')} packed, "
        f"{counted(summary.shards, 'shard')} per size, {storage(summary.num_bytes)}"
    )
    for reason, count in summary.rejected.items():
        click.echo(f"  {count:,} rejected: {reason}")
    for kind, count in summary.converted.items():
        click.echo(f"  {count:,} converted to 8-bit gray, baseline and upright: {kind}")
    if summary.rejected:
        click.echo(f"  listed in {out / 'rejects.csv'}")
    for count, whose in ((summary.same_pixels, "an"), (summary.same_pixels_of_patient, "another")):
        of = "image of another patient" if whose == "an" else "image of the same patient"
        if count:
            click.echo(f"  {count:,} have the same pixels as {whose} {of}; `cxrdali inspect` lists them")
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
        click.echo(f"{counted(summary.images_this_run, 'image')} in {summary.seconds:,.1f} s, {rate:,.0f} images/s")
