"""Where things are when no option says so."""

import functools
import os
import re
from collections.abc import Sequence
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
    """A local folder (or file; None: either), or the address of one in a bucket or on a server: s3://bucket/folder."""

    def __init__(self, folder: bool | None = True):
        super().__init__(path_type=Path, file_okay=not folder, dir_okay=folder is not False)

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


class PackPlace(Place):
    """A packed dataset's place, with the name that it gets among several in front: NAME=PATH."""

    def convert(self, value, param, context):
        name, equals, place = str(value).partition("=")
        if isinstance(value, Path) or not equals or not re.fullmatch(r"[\w.-]+", name) or Path(value).exists():
            return super().convert(value, param, context)
        found = super().convert(place, param, context)
        context.meta.setdefault(_NAMES, {})[str(found)] = name
        return found


def packed(given: Path | Sequence[Path] | None) -> Path:
    """The place of one packed dataset: given, or its default. Raises UserError for several."""
    if isinstance(given, tuple):
        if len(given) > 1:
            raise UserError(
                f"--data {given[1]}: `{click.get_current_context().info_name}` reads one pack; give one --data and run "
                "it for each"
            )
        given = given[0] if given else None
    return resolve(given, "CXRDALI_DATA", DATA, "packed dataset")


def release(given: Path | None) -> Path:
    return resolve(given, "CXRDALI_SOURCE", SOURCE, "release")


def open_packed(given: Path | Sequence[Path] | None):
    """The packed dataset at --data or its default, opened. What lies in a bucket is copied to --cache when needed."""
    dataset = _opened(packed(given))
    click.get_current_context().meta[_OPENED] = dataset
    return dataset


def open_packs(given: Sequence[Path], option: str = "--data ") -> dict:
    """The packed datasets at --data, or the default one, by the names that they have among each other: NAME of
    NAME=PATH, else the folder's. option: as messages spell what gives one."""
    context, packs = click.get_current_context(), {}
    for root in given or (packed(None),):
        if str(root) in [str(pack.root) for pack in packs.values()]:
            raise UserError(f"{option}{root}: is given twice; give each pack once")
        folder = Path(str(root))
        folder = folder if folder.name not in ("", "..") else folder.resolve()
        name = context.meta.get(_NAMES, {}).get(str(root)) or folder.name
        if name in packs:
            raise UserError(
                f"{option}{root}: {packs[name].root} is called {name!r} too; give one of them another name, as in "
                f"{option}{name}-2={root}"
            )
        packs[name] = _opened(root)
        for other in list(packs.values())[:-1]:  # a link, or a copy: every image would be there twice
            if other.id == packs[name].id:
                raise UserError(f"{option}{root}: is the same dataset as {other.root}; give each pack once")
    return packs


def open_dataset(given: Sequence[Path], findings=None, same_patients=None, run=None):
    """The packs at --data as one dataset (one alone is itself): with these findings and patients (`DataSettings`), or
    as a run has them."""
    from cxrdali.data.packs import as_one
    from cxrdali.runs.same_data import as_trained

    packs = open_packs(given)
    dataset = as_trained(run, packs) if run is not None else as_one(packs, findings, same_patients)
    click.get_current_context().meta[_OPENED] = dataset
    return dataset


def _opened(root: Path):
    from shards.dataset.cache import Cache
    from shards.dataset.packed import PackedDataset

    here = storage_of(root).local
    if here and _asked_cache() is not None:
        click.echo(f"note: {root} is on this machine, so nothing is copied to a cache", err=True)
    return PackedDataset.open(root, None if here else Cache(copies()))


def as_given(pack: Path) -> str:
    """A pack of --data as the command line had it, with its name."""
    name = click.get_current_context().meta.get(_NAMES, {}).get(str(pack))
    return f"{name}={pack}" if name else str(pack)


def opened():
    """The packed dataset that this command has opened; None if it has none."""
    return click.get_current_context().meta.get(_OPENED)


def copies(what: str = "copies") -> Path:
    """Where a dataset in a bucket is copied to; its disk needs room for the shards in use. what: is kept there."""
    from shards.dataset.cache import default_folder

    return resolve(_asked_cache(), "CXRDALI_CACHE", default_folder(), what)


_CACHE, _OPENED, _NAMES = "cxrdali.cache", "cxrdali.opened", "cxrdali.names"


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
    """--labels DIR, as often as there are releases, and tables that belong to one."""
    return click.option("--labels", "label_folders", multiple=True, type=Place(None), metavar="DIR|FILE", help=help)


def _data(metavar: str, several: str = ""):
    """--data; several: what its help says of more than one pack."""
    place = f"Packed dataset: a folder, or an address such as s3://bucket/pack. {several}"
    help = f"{place} [default: $CXRDALI_DATA, else data/packed]"
    return click.option("--data", multiple=True, type=PackPlace(), metavar=metavar, help=help)


def data_option(command):
    """--data, and where it is copied to if it is in a bucket."""
    several = (
        "Repeated, where a command takes several packs, it makes one dataset of them; a pack is called NAME, else "
    )
    return _data("[NAME=]PACK", several + "as its folder. ")(cache_options(command))


def pack_argument(command):
    """The place of the packed dataset for `command(pack, ...)`: the argument PACK, else --data or its default."""

    @functools.wraps(command)
    def with_pack(pack, data, **given):
        if pack is not None and data:
            raise click.UsageError(f"two datasets, {pack} and --data {data[0]}; give one of them")
        return command(pack or packed(data), **given)

    return click.argument("pack", type=Place(), required=False)(_data("PACK")(with_pack))
