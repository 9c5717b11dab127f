"""cxrdali label: other labels for a packed dataset, also those that a run predicted."""

from dataclasses import fields

import click

from cli.options import folders
from cli.options.fields import field_options, filled
from cli.options.folders import FILE
from cli.options.run_folder import RunFolder
from cli.options.table_options import read_columns, release_option, table_options
from cxrdali.predict.pseudo_options import PseudoOptions
from shards.words import counted

PSEUDO = tuple(each.name for each in fields(PseudoOptions))


@click.command()
@folders.pack_argument
@folders.label_folders_option(
    "Folder of a label release to attach; may be repeated, and followed by a table that belongs to it."
)
@click.option("--remove", metavar="NAME", help="Remove attached labels.")
@click.option(
    "--from",
    "predicted",
    type=FILE,
    metavar="FILE",
    help="Attach a table of predictions as pseudo-labels, with --name and one of --soft, --threshold and --above with "
    "--below.",
)
@click.option("--name", metavar="NAME", help="Of the labels that --from makes.")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    type=RunFolder(),
    metavar="RUN",
    help="The run that predicted them, so that whoever trains on them is told which images it has seen; each of an "
    "ensemble.",
)
@field_options(PseudoOptions, *PSEUDO)
@click.option("--allow-subject-overlap", is_flag=True, help="Attach labels that have a subject in two splits.")
@release_option
@table_options(images=False)
def label(pack, label_folders, remove, allow_subject_overlap, release, table, predicted, name, teachers, **given):
    """Attach another label release to PACK, with its splits; no shard is touched. Without options: list them.

    Train, predict and evaluate choose by --labels NAME. Runs on the dataset stay valid. Labels from any table
    (--table) are joined by image id and named after the file. Pseudo-labels (--from) are of their images' training
    split; they train and never validate.
    """
    pseudo = {each: given.pop(each) for each in PSEUDO}
    _check_from(predicted, name, teachers, pseudo)
    columns = given
    from shards.dataset.packed import PackedDataset
    from shards.packing.attach import attach, detach
    from shards.releases.open import read_labels
    from shards.releases.table import label_table

    named = read_columns(table, columns, ("id_column", "findings"))
    made = (label_table(table, named),) if named else ()
    if (release or (columns["join_rows"] and not named)) and not label_folders:
        what = "--release describes" if release else "--join-rows joins the rows of"
        raise click.UsageError(f"{what} a table; give --table FILE or --labels DIR too")
    if label_folders and (release or columns["join_rows"]):
        dataset = PackedDataset.open(pack)
        how = dataset.info["release"], release, columns["join_rows"]
        found = read_labels(how[0], label_folders, dataset.catalog, *how[1:])
        made, label_folders = (*made, *found), ()
    if predicted:
        made = (*made, _pseudo_labels(pack, predicted, name, teachers, pseudo))
    if remove:
        detach(pack, remove)
        click.echo(f"{pack}: labels {remove} removed")
    for attached, new in attach(pack, label_folders, allow_subject_overlap, made) if label_folders or made else ():
        elsewhere = f"; {attached.elsewhere:,} more images are not in this dataset" if attached.elsewhere else ""
        click.echo(f"labels {attached.name}: {'attached' if new else 'were attached already'}{elsewhere}")
        for note in attached.notes:
            click.echo(f"  {note}")
    dataset = PackedDataset.open(pack)
    for name in dataset.label_names:
        labels = dataset.labels(name)
        parts = ", ".join(f"{(labels.split == split).sum():,} {split}" for split in ("train", "dev", "test"))
        default = " (the default)" if name == dataset.info["default_labels"] else ""
        by = f"; pseudo-labels by {labels.pseudo['run']}, {labels.pseudo['how']}" if labels.pseudo else ""
        click.echo(f"{name}{default}: {counted(len(labels.findings), 'finding')}; {parts}{by}")
    if not dataset.label_names:
        click.echo(f"{pack}: no labels; attach some with --labels DIR")


def _check_from(predicted, name, teachers, pseudo) -> None:
    """Raises click.UsageError for options of --from without it, or without a name."""
    if predicted and not name:
        raise click.UsageError("--from makes labels of a name of their own; give --name NAME")
    given = {"name": name, "teacher": teachers or None, **pseudo}
    wrong = [f"--{each.replace('_', '-')}" for each, value in given.items() if value is not None]
    if wrong and not predicted:
        raise click.UsageError(f"{wrong[0]} belongs to --from, which was not given")


def _pseudo_labels(pack, predicted, name, teachers, given):
    from cxrdali.predict.pseudo_labels import make, words
    from shards.dataset.packed import PackedDataset
    from shards.releases.release import LabelTable

    made = make(predicted, PackedDataset.open(pack), filled(PseudoOptions, given), teachers)
    click.echo(f"{predicted}: {words(made)}")
    return LabelTable(name, made.findings, made.table, (predicted,), pseudo=made.metadata)
