"""cxrdali label: other labels for a packed dataset."""

from pathlib import Path

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--labels",
    "label_folders",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of a label release to attach; may be repeated.",
)
@click.option("--remove", metavar="NAME", help="Remove attached labels.")
@click.option("--allow-subject-overlap", is_flag=True, help="Attach labels that have a subject in two splits.")
def label(pack, label_folders, remove, allow_subject_overlap):
    """Attach another label release to PACK, with its splits; no shard is touched. Without options: list them.

    Train, predict and evaluate choose by --labels NAME. Runs on the dataset stay valid.
    """
    from shards.label import attach, detach
    from shards.packed import PackedDataset

    if remove:
        detach(pack, remove)
        click.echo(f"{pack}: labels {remove} removed")
    for table, new in attach(pack, label_folders, allow_subject_overlap) if label_folders else ():
        elsewhere = f"; {table.elsewhere:,} more images are not in this dataset" if table.elsewhere else ""
        click.echo(f"labels {table.name}: {'attached' if new else 'were attached already'}{elsewhere}")
    dataset = PackedDataset.open(pack)
    for name in dataset.label_names:
        labels = dataset.labels(name)
        parts = ", ".join(f"{(labels.split == split).sum():,} {split}" for split in ("train", "dev", "test"))
        default = " (the default)" if name == dataset.label_names[0] else ""
        click.echo(f"{name}{default}: {len(labels.findings)} findings; {parts}")
    if not dataset.label_names:
        click.echo(f"{pack}: no labels; attach some with --labels DIR")
