"""Where things are when no option says so."""

import os
from pathlib import Path

import click

from shards.remote import is_remote, place

SOURCE, DATA, RUNS = Path("data/mimic-cxr-jpg"), Path("data/packed"), Path("runs")


class Place(click.Path):
    """A local folder, or the address of one in a bucket or on a server: s3://bucket/folder."""

    def __init__(self):
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value, param, context):
        return place(value) if is_remote(value) else super().convert(value, param, context)


def resolve(given: Path | None, variable: str, default: Path, what: str) -> Path:
    """The option, else the environment variable, else the default; says so when it is not the option."""
    if given is not None:
        return given
    if os.environ.get(variable):
        path, reason = place(os.environ[variable]), variable
    else:
        path, reason = default, "the default"
    click.echo(f"{what}: {path} ({reason})", err=True)
    return path


def packed(given: Path | None) -> Path:
    return resolve(given, "CXRDALI_DATA", DATA, "packed dataset")


def release(given: Path | None) -> Path:
    return resolve(given, "CXRDALI_SOURCE", SOURCE, "release")


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="PACK",
    help="Packed dataset.  [default: $CXRDALI_DATA, else data/packed]",
)
