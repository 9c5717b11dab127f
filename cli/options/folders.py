"""Where things are when no option says so."""

import functools
import os
from pathlib import Path

import click

from cxrdali.runs.layout import run_file
from shards.errors import UserError
from shards.storage.places import storage_of
from shards.storage.remote import place

FOLDER, FILE = click.Path(path_type=Path, file_okay=False), click.Path(path_type=Path, dir_okay=False)  # local
SOURCE, DATA, RUNS = Path("data/mimic-cxr-jpg"), Path("data/packed"), Path("runs")


class Output(click.Path):
    """A local file to write, which is none of a run's own."""

    def convert(self, value, param, context):
        path = super().convert(value, param, context)
        if name := run_file(path):
            raise UserError(f"{path}: {name} there belongs to a run, and would be written over; give another name")
        return path


OUTPUT = Output(path_type=Path, dir_okay=False)


class Place(click.Path):
    """A local folder (or file), or the address of one in a bucket or on a server: s3://bucket/folder."""

    def __init__(self, folder: bool = True):
        super().__init__(path_type=Path, file_okay=not folder, dir_okay=folder)

    def convert(self, value, param, context):
        found = place(value)
        return super().convert(value, param, context) if storage_of(found).local else found


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


def open_packed(given: Path | None):
    """The packed dataset at --data or its default, opened. What lies in a bucket is copied to --cache when needed."""
    from shards.dataset.cache import Cache
    from shards.dataset.packed import PackedDataset

    root = packed(given)
    here = storage_of(root).local
    if here and _asked_cache() is not None:
        click.echo(f"note: {root} is on this machine, so nothing is copied to a cache", err=True)
    dataset = PackedDataset.open(root, None if here else Cache(copies()))
    click.get_current_context().meta[_OPENED] = dataset
    return dataset


def opened():
    """The packed dataset that this command has opened; None if it has none."""
    return click.get_current_context().meta.get(_OPENED)


def copies() -> Path:
    """Where a dataset in a bucket is copied to; its disk needs room for the shards in use."""
    from shards.dataset.cache import default_folder

    return resolve(_asked_cache(), "CXRDALI_CACHE", default_folder(), "copies")


_CACHE, _OPENED = "cxrdali.cache", "cxrdali.opened"


def _asked_cache() -> Path | None:
    return click.get_current_context().meta.get(_CACHE)


def _keep(context: click.Context, option: click.Parameter, value: Path | None) -> None:
    """Some fifteen commands have this option and do nothing with it but open the dataset: no argument for each."""
    context.meta[_CACHE] = value


def cache_options(command):
    """--cache, for `open_packed`."""
    return click.option(
        "--cache",
        type=FOLDER,
        metavar="DIR",
        callback=_keep,
        expose_value=False,
        help="Where a dataset in a bucket is copied to; its disk needs room for the shards in use.  "
        "[default: $CXRDALI_CACHE, else ~/.cache/cxrdali]",
    )(command)


def label_folders_option(help: str):
    """--labels DIR, as often as there are releases."""
    return click.option("--labels", "label_folders", multiple=True, type=Place(), metavar="DIR", help=help)


_DATA = click.option(
    "--data",
    type=Place(),
    metavar="PACK",
    help="Packed dataset: a folder, or an address such as s3://bucket/pack.  "
    "[default: $CXRDALI_DATA, else data/packed]",
)


def data_option(command):
    """--data, and where it is copied to if it is in a bucket."""
    return _DATA(cache_options(command))


def pack_argument(command):
    """The place of the packed dataset for `command(pack, ...)`: the argument PACK, else --data or its default."""

    @functools.wraps(command)
    def with_pack(pack, data, **given):
        if pack is not None and data is not None:
            raise click.UsageError(f"two datasets, {pack} and --data {data}; give one of them")
        return command(pack or packed(data), **given)

    return click.argument("pack", type=Place(), required=False)(_DATA(with_pack))
