"""cxrdali subjects: what is known of the people on a packed dataset's images."""

import click

from cli.options import folders
from cli.options.folders import Place
from cli.options.table_options import release_option
from shards.words import counted

TABLE = Place(folder=False)


@click.command()
@folders.pack_argument
@click.option(
    "--subjects",
    "table",
    type=TABLE,
    metavar="FILE",
    help="MIMIC-IV's patients.csv.gz; or any table with image_id or subject_id and some of sex, age, race, "
    "manufacturer, model, year.",
)
@click.option("--admissions", type=TABLE, metavar="FILE", help="MIMIC-IV's admissions.csv.gz, for races.")
@click.option(
    "--metadata", type=TABLE, metavar="FILE", help="MIMIC-CXR-JPG's metadata.csv.gz, for ages and years at the study."
)
@click.option("--source", type=Place(), metavar="DIR", help="The release itself, to take what its own tables say.")
@release_option
@click.option("--name", metavar="NAME", help="What to call it.  [default: the file's name, or the release's]")
@click.option("--remove", metavar="NAME", help="Remove what was attached by this name.")
def subjects(pack, table, admissions, metadata, source, release, name, remove):
    """Attach sex, age, race, scanner or year of the patients to PACK; no shard is touched. Without options: list them.

    `cxrdali evaluate --by` and `compare --by` score groups by them. Runs on the dataset stay valid. What packing wrote
    stays where a table says another thing; how often it does is said. Of a date only the year is kept.
    """
    from shards.dataset.packed import PackedDataset
    from shards.packing.attach import attach_subjects, detach_subjects
    from shards.releases.open import open_release
    from shards.releases.subjects import of_release, read_subjects
    from shards.releases.table import label_name

    if table and source:
        raise click.UsageError("--subjects and --source are both tables of people; give one after the other")
    if (admissions or metadata) and not table:
        raise click.UsageError("--admissions and --metadata go with MIMIC-IV's patients: give --subjects FILE too")
    if release and not source:
        raise click.UsageError("--release describes a release; give --source DIR too")
    if name and not (table or source):
        raise click.UsageError("--name is for what is attached; give --subjects FILE or --source DIR too")
    if remove:
        detach_subjects(pack, remove)
        click.echo(f"{pack}: people {remove} removed")
    if table or source:
        images = PackedDataset.open(pack).catalog[["image_id", "subject_id"]]
        if table:
            given, called = read_subjects(table, images, admissions, metadata), label_name(table)
        else:
            found = open_release(source, name=release)
            given, called = of_release(found, images), found.name
        called = name or called
        new, notes = attach_subjects(pack, called, given)
        click.echo(f"people {called}: {'attached' if new else 'were attached already'}")
        for note in (*given.notes, *notes):
            click.echo(f"  {note}")
    _list(PackedDataset.open(pack))


def _list(dataset) -> None:
    """What is known of how many images."""
    from cli.options.scores import aligned
    from shards.dataset.people import known_people

    rows = [(name, f"{known:,} of {counted(len(dataset.packed), 'image')}", f"from {source}" if source else "packed")
            for name, known, source in known_people(dataset)]  # fmt: skip
    click.echo(aligned(rows, left=(0, 2)) if rows else f"{dataset.root}: nobody is known; give --subjects FILE")
