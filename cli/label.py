"""cxrdali label: other labels for a packed dataset."""

import click

from cli.options import folders
from cli.options.table_options import read_columns, release_option, table_options
from shards.words import counted


@click.command()
@folders.pack_argument
@folders.label_folders_option(
    "Folder of a label release to attach; may be repeated, and followed by a table that belongs to it."
)
@click.option("--remove", metavar="NAME", help="Remove attached labels.")
@click.option("--allow-subject-overlap", is_flag=True, help="Attach labels that have a subject in two splits.")
@release_option
@table_options(images=False)
def label(pack, label_folders, remove, allow_subject_overlap, release, table, **columns):
    """Attach another label release to PACK, with its splits; no shard is touched. Without options: list them.

    Train, predict and evaluate choose by --labels NAME. Runs on the dataset stay valid. Labels from any table
    (--table) are joined by image id and named after the file.
    """
    from shards.dataset.packed import PackedDataset
    from shards.packing.attach import attach, detach
    from shards.releases.open import read_labels
    from shards.releases.table import label_table

    named = read_columns(table, columns, ("id_column", "findings"))
    given = (label_table(table, named),) if named else ()
    if (release or (columns["join_rows"] and not named)) and not label_folders:
        what = "--release describes" if release else "--join-rows joins the rows of"
        raise click.UsageError(f"{what} a table; give --table FILE or --labels DIR too")
    if label_folders and (release or columns["join_rows"]):
        dataset = PackedDataset.open(pack)
        how = dataset.info["release"], release, columns["join_rows"]
        found = read_labels(how[0], label_folders, dataset.catalog, *how[1:])
        given, label_folders = (*given, *found), ()
    if remove:
        detach(pack, remove)
        click.echo(f"{pack}: labels {remove} removed")
    for attached, new in attach(pack, label_folders, allow_subject_overlap, given) if label_folders or given else ():
        elsewhere = f"; {attached.elsewhere:,} more images are not in this dataset" if attached.elsewhere else ""
        click.echo(f"labels {attached.name}: {'attached' if new else 'were attached already'}{elsewhere}")
        for note in attached.notes:
            click.echo(f"  {note}")
    dataset = PackedDataset.open(pack)
    for name in dataset.label_names:
        labels = dataset.labels(name)
        parts = ", ".join(f"{(labels.split == split).sum():,} {split}" for split in ("train", "dev", "test"))
        default = " (the default)" if name == dataset.label_names[0] else ""
        click.echo(f"{name}{default}: {counted(len(labels.findings), 'finding')}; {parts}")
    if not dataset.label_names:
        click.echo(f"{pack}: no labels; attach some with --labels DIR")
