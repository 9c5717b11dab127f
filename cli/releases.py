"""cxrdali releases: which releases are read, and what a description of one's own would read."""

from collections.abc import Iterator

import click

from cli.options import folders
from cli.options.scores import aligned
from shards.words import counted

EXAMPLES = 10  # rows


@click.command()
@click.argument("name", required=False)
@click.option(
    "--check",
    metavar="FILE",
    help="A TOML that describes a release, or the name of one: print what would be read of it in --source, and pack "
    "nothing.",
)
@click.option("--source", type=folders.Place(), metavar="DIR", help="The release's folder, for --check.")
def releases(name, check, source):
    """List the releases that `cxrdali shard` reads, or print the description of one as TOML.

    It can begin a file of your own, for --release.
    """
    from shards.releases.open import open_release, reader_named, readers

    if check:
        if name or source is None:
            raise click.UsageError("--check FILE takes --source DIR, and no name of a release")
        for line in _found(open_release(source, name=check)):
            click.echo(line)
    elif source is not None:
        raise click.UsageError("--source is the folder for --check FILE")
    elif name:
        reader = reader_named(name)
        words = f"{reader.name}: {reader.folders}\nlabels: {reader.label_files}\nread by code, not by a TOML"
        click.echo(reader.declaration.rstrip() or words)
    else:
        rows = [(each.name, each.title or each.folders, each.needs) for each in readers()]
        for each, title, needs in rows:
            click.echo(f"{each.ljust(max(len(row[0]) for row in rows))}  {title}{': ' if needs else ''}{needs}")


def _found(release) -> Iterator[str]:
    """What was read, in lines."""
    from shards.releases.paths import share_there
    from shards.storage.csv import how_written, read_table

    yield f"{release.name}: {counted(len(release.images), 'image')} in {release.root}"
    yield from (f"  {note}" for note in release.notes)
    for path in dict.fromkeys([*release.inputs, *(each for labels in release.labels for each in labels.inputs)]):
        rows = len(read_table(path, unnamed=True, declared=True))
        yield f"table {path.relative_to(release.root)}: {counted(rows, 'row')}, {how_written(path)}"
    for column in release.images:
        values = release.images[column].astype(str)
        blank = (values == "").sum()
        yield f"{column}: {counted(values.nunique(), 'value')}{f', blank for {blank:,}' if blank else ''}"
    yield f"views: {_counts(release.images['view'])}"
    yield f"files looked for: {share_there(release.images['path'], release.root):.0%} of them are there"
    for labels in release.labels:
        yield f"labels {labels.name}: {counted(len(labels.table), 'image')}; splits: {_counts(labels.table['split'])}"
        yield from (f"  {note}" for note in labels.notes)
        rows = [("finding", "1", "0", "-1", "blank")]
        for finding in labels.findings:
            values = labels.table[finding]
            rows.append((finding, *(f"{(values == each).sum():,}" for each in (1, 0, -1)), f"{values.isna().sum():,}"))
        yield aligned(rows)
    yield f"the first {min(EXAMPLES, len(release.images))} images:"
    yield release.images.head(EXAMPLES).to_csv(index=False).rstrip()


def _counts(values) -> str:
    return ", ".join(f"{count:,} {value}" for value, count in values.value_counts().items()) or "none"
