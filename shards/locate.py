"""Where the images of a release are, when its tables name files but no folders.

One listing per folder and no look at any file: 160,000 looks take minutes on a network disk, 160,000 names seconds.
"""

import os
from pathlib import Path

import pandas as pd

from shards.errors import DataError

DEPTH = 2  # images/0/NAME and images_001/images/NAME are the deepest in use


def image_paths(root: Path, names: pd.Series, table: Path) -> pd.Series:
    """The path of every named file, relative to `root`: object [names], in the folder itself or at most two below it.

    A file that is nowhere gets the path where it would be looked for first, and so becomes a reject when it is read.
    Raises DataError if no file is there at all, or one in two folders; `table` is the file that names them.
    """
    found = _listing(root, set(names))
    if not found and len(names):
        raise DataError(
            f"{root}: none of the {len(names):,} images of {table.name} is in it or up to {DEPTH} folders below; the "
            f"first is {names.iloc[0]!r}; put the images there, flat or in images/"
        )
    folder = "images/" if (root / "images").is_dir() else ""
    return names.map(lambda name: found.get(name, f"{folder}{name}"))


def names_in(folder: Path) -> list[str]:
    """What a folder holds, by name."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries)


def _listing(root: Path, wanted: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    folders = [("", 0)]
    for folder, depth in folders:  # grows while it is walked
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = folder + entry.name
                if entry.name in wanted:  # its kind is not asked for: some file systems would have to look
                    if entry.name in found:
                        first, second = sorted((found[entry.name], path))
                        raise DataError(
                            f"{root}: image {entry.name!r} is in it twice, as {first} and as {second}; "
                            "move one of the folders out of the release"
                        )
                    found[entry.name] = path
                elif depth < DEPTH and not entry.name.startswith(".") and entry.is_dir():
                    folders.append((f"{path}/", depth + 1))
    return found
