"""Where the images of a release are, when its tables name files but no folders.

One listing per folder and no look at any file: 160,000 looks take minutes on a network disk, 160,000 names seconds.
"""

import re
from functools import partial

import pandas as pd

from shards.errors import UserError
from shards.storage.csv import read_table
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import counted

DEPTH = 2  # images/0/NAME and images_001/images/NAME are the deepest in use
ANY = ".*"  # in place of a suffix
IMAGES = (".jpg", ".jpeg", ".png", ".dcm", ".dicom")
_SUFFIX = rf"(?i)({'|'.join(map(re.escape, IMAGES))})$"


def image_paths(root: Location, names: pd.Series, table: Location, depth: int = DEPTH) -> pd.Series:
    """The path of every named file, relative to `root`: object [names], in the folder itself or at most `depth` below.

    A name that ends in .* has any suffix of an image, or none.

    A file that is nowhere gets the path where it would be looked for first, and so becomes a reject when it is read.
    Raises UserError if no file is there at all, or one in two folders; `table` is the file that names them.
    """
    found = _listing(root, set(names), depth)
    if not found and len(names):
        raise UserError(
            f"{root}: none of the {counted(len(names), 'image')} of {table.name} is in it or up to {depth} folders "
            f"below; the first is {names.iloc[0]!r}; put the images there, flat or in images/"
        )
    # asked only if it matters: in a store the answer is another listing
    folder = "images/" if len(found) < names.nunique() and storage_of(root / "images").has_folder() else ""
    return names.map(lambda name: found.get(name, f"{folder}{name}"))


def folders_in(folder: Location) -> list[Location]:
    """The folders directly in a folder, by name."""
    found = sorted(storage_of(folder).entries(), key=lambda entry: entry.name)
    return [folder / entry.name for entry in found if entry.is_folder()]


def table_in(folder: Location, *names: str) -> Location | None:
    """The first of the named tables that is there, as it is named or else compressed (.gz) or not; None if none is.

    On this machine in capitals too. Raises UserError if it is there both ways and they differ.
    """
    for name in names:
        if found := [path for path in _ways(folder / name) if storage_of(path).exists()]:
            return the_same(found)
    return None


def the_same(paths: list[Location], declared: bool = False) -> Location:
    """The first of several files of one table. Raises UserError if another one differs."""
    read = partial(read_table, unnamed=True, declared=declared)
    for other in paths[1:]:
        if not read(paths[0]).equals(read(other)):
            raise UserError(f"{paths[0]}: differs from {other.name} beside it; remove the one that is not to be read")
    return paths[0]


def not_read(path: Location) -> list[str]:
    """For the user: the other files of a table that was read."""
    others = [other.name for other in _ways(path)[1:] if storage_of(other).exists()]
    return [f"{path.name} is read, and {other} beside it, the same table, is not" for other in others]


def _ways(path: Location) -> list[Location]:
    """How a table may be named, first as it is."""
    stem, dot, end = path.name.lower().rpartition(".csv")
    if not dot:
        return [path]
    stem, names = path.name[: len(stem)], [path.name, path.name[: len(stem)] + (".csv" if end else ".csv.gz")]
    if storage_of(path).local:  # in a store every look is a round trip
        ends = (".csv", ".CSV", ".csv.gz", ".CSV.gz", ".CSV.GZ", ".csv.zip", ".csv.bz2")
        names += [start + end for end in ends for start in (stem, stem.upper())]
    return [path.with_name(name) for name in dict.fromkeys(names)]


def _listing(root: Location, wanted: set[str], depth: int) -> dict[str, str]:
    found: dict[str, str] = {}
    any_suffix = any(name.endswith(ANY) for name in wanted)
    folders = [("", 0)]
    for folder, below in folders:  # grows while it is walked
        for name, is_folder, _ in storage_of(root / folder if folder else root).entries():
            path = folder + name
            known = name if not any_suffix or name in wanted else re.sub(_SUFFIX, "", name) + ANY
            if known in wanted and not (known != name and is_folder()):
                if known in found:
                    first, second = sorted((found[known], path))
                    raise UserError(
                        f"{root}: image {known!r} is in it twice, as {first} and as {second}; "
                        "move one of the folders out of the release"
                    )
                found[known] = path
            elif below < depth and not name.startswith(".") and is_folder():
                folders.append((f"{path}/", below + 1))
    return found
