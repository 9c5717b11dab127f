"""The registry of releases: which reader knows a folder.

Every file of this folder that defines READER adds one, and so does every TOML in `declared/`. They are imported only
when a release is opened.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from shards import releases
from shards.errors import UserError
from shards.releases.checks import check_paths
from shards.releases.declared.reader import reader_of, shipped
from shards.releases.declared.schema import read_schema
from shards.releases.folder import NAME as FOLDER
from shards.releases.locate import folders_in, not_read
from shards.releases.release import TABLE, LabelTable, Reader, Release, check_read, files_of, mark
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import choices

MOST_FOLDERS = 100  # that are looked into for a release
ABOVE = 2  # folders above one of bare images, of which it may be a part


def readers(join_rows: str | None = None) -> list[Reader]:
    """All kinds of releases, in the order in which they are asked whether they know a folder.

    join_rows: what several readers of an image say together, instead of what declared releases say
    (`shards.releases.columns.check_join`).
    """
    names = (each.name for each in pkgutil.iter_modules(releases.__path__, f"{releases.__name__}."))
    modules = map(importlib.import_module, names)
    found: list[Reader] = [each.READER for each in modules if hasattr(each, "READER")]
    listed: dict = {}
    found += [reader_of(schema, listed, join_rows) for schema in shipped()]
    return sorted(found, key=lambda reader: reader.order)


def reader_named(name: str, join_rows: str | None = None) -> Reader:
    """The reader of a release by its name, or of the TOML file of this name.

    Raises UserError if there is neither, or if rows are to be joined of a release that has none of several readers.
    """
    if name.lower().endswith(".toml") or "/" in name:
        return reader_of(read_schema(Path(name)), join_rows=join_rows)
    known = {reader.name: reader for reader in readers(join_rows)}
    if name not in known:
        raise UserError(
            f"no release {name!r}; {choices(name, known)}, or give the TOML file of your own with --release"
        )
    return _joining(known[name], join_rows)


def _joining(reader: Reader, join_rows: str | None) -> Reader:
    if join_rows is not None and not reader.declaration:
        raise UserError(f"--join-rows {join_rows}: {reader.name} has no rows of several readers; leave it out")
    return reader


def open_release(
    root: Location, label_folders: Sequence[Location] = (), name: str | None = None, join_rows: str | None = None
) -> Release:
    """Read the release in `root`, with the label releases found in it and in `label_folders`.

    name: of the release, or its TOML file (`reader_named`); detected if it is None.
    join_rows: as of `readers`; for declared releases only.
    """
    if not storage_of(root).has_folder():
        raise UserError(f"{root}: no such folder; give the release's folder with --source")
    known = readers(join_rows)
    if name is None:
        reader = next((each for each in known if each.recognises(root)), None)
        if reader is None:
            raise _unknown(root, known)
        _check_alone(root, reader, known)
        _joining(reader, join_rows)
    else:
        reader = reader_named(name, join_rows)
        if not reader.declaration and reader.name != FOLDER and not reader.recognises(root):
            raise UserError(f"{root}: not a release of {reader.name}; it holds {reader.folders}")
    release = reader.read(root, label_folders)
    check_read(files_of(label_folders), release.labels, reader.label_files)
    check_paths(release)
    read = dict.fromkeys([*release.inputs, *(path for table in release.labels for path in table.inputs)])
    notes = (*release.notes, *(note for path in read for note in not_read(path)))
    return replace(release, reading={**release.reading, **mark(root)}, notes=notes)


def _unknown(root: Location, known: Sequence[Reader]) -> UserError:
    words = ", ".join(reader.folders for reader in known if not reader.declaration)
    below = folders_in(root)[:MOST_FOLDERS] if storage_of(root).local else []
    inside, above = _release_in(below, known), _release_in(_above(root), known)
    fix = "for any other give --table FILE, or a description of it with --release FILE"
    if inside or above:
        fix = f"{inside} in it is one" if inside else f"{above} above it is one"
        fix += ", give that with --source"
    return UserError(f"{root}: not a release that cxrdali reads; {words}; `cxrdali releases` lists all; {fix}")


def _check_alone(root: Location, reader: Reader, known: Sequence[Reader]) -> None:
    """A folder of a release, as its train/, is no release of its own: every image would be of another patient."""
    if reader.name == FOLDER and (whole := _release_in(_above(root), known)):
        raise UserError(
            f"{root}: {whole} above it is a release, give that with --source; if these are other images, give "
            f"--release {FOLDER}"
        )


def _release_in(folders: Sequence[Location], known: Sequence[Reader]) -> Location | None:
    """The first folder of a release; images alone are in many."""
    others = [reader for reader in known if reader.name != FOLDER]
    return next((folder for folder in folders if any(reader.recognises(folder) for reader in others)), None)


def _above(root: Location) -> list[Location]:
    above: list[Location] = [*root.resolve().parents] if isinstance(root, Path) else []
    return above[:ABOVE]


def read_labels(
    release: str,
    folders: Sequence[Location],
    images: pd.DataFrame,
    name: str | None = None,
    join_rows: str | None = None,
) -> list[LabelTable]:
    """The label releases in `folders` (and of tables beside them) for the images of a release by its name, restricted
    to those images.

    name: the TOML file of a release that does not come with the package; join_rows: as of `readers`.
    Raises UserError if a folder holds none, or one of other images.
    """
    if release in (TABLE, FOLDER):
        what = "from a table of their own" if release == TABLE else "without a table"
        raise UserError(
            f"{folders[0]}: the images were packed {what}, so no label release fits them; give the labels as --table "
            "FILE --id-column COLUMN --findings LIST"
        )
    reader = reader_named(name or release, join_rows)
    found = reader.labels_at(folders, images)
    check_read(files_of(folders), found, reader.label_files)
    return [table.restricted_to(images["image_id"]) for table in found]
