"""Where the images of a release are, when its tables name files but no folders.

One listing per folder and no look at any file: 160,000 looks take minutes on a network disk, 160,000 names seconds.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from shards.errors import UserError
from shards.storage.remote import entries, has_folder, is_remote

DEPTH = 2  # images/0/NAME and images_001/images/NAME are the deepest in use


def image_paths(root: Path, names: pd.Series, table: Path) -> pd.Series:
    """The path of every named file, relative to `root`: object [names], in the folder itself or at most two below it.

    A file that is nowhere gets the path where it would be looked for first, and so becomes a reject when it is read.
    Raises UserError if no file is there at all, or one in two folders; `table` is the file that names them.
    """
    found = _listing(root, set(names))
    if not found and len(names):
        raise UserError(
            f"{root}: none of the {len(names):,} images of {table.name} is in it or up to {DEPTH} folders below; the "
            f"first is {names.iloc[0]!r}; put the images there, flat or in images/"
        )
    # asked only if it matters: in a store the answer is another listing
    folder = "images/" if len(found) < names.nunique() and has_folder(root / "images") else ""
    return names.map(lambda name: found.get(name, f"{folder}{name}"))


def names_in(folder: Path) -> list[str]:
    """What a folder holds, by name."""
    return sorted(name for name, _ in _entries(folder))


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, by name."""
    return [folder / name for name, is_folder in sorted(_entries(folder), key=lambda entry: entry[0]) if is_folder()]


def _entries(folder: Path) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Names, and whether it is a folder if that is asked for: some file systems have to look."""
    if is_remote(folder):
        for name, is_folder, _ in entries(folder):
            yield name, lambda is_folder=is_folder: is_folder
        return
    with os.scandir(folder) as found:
        for entry in found:
            yield entry.name, entry.is_dir


def _listing(root: Path, wanted: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    folders = [("", 0)]
    for folder, depth in folders:  # grows while it is walked
        for name, is_folder in _entries(root / folder if folder else root):
            path = folder + name
            if name in wanted:
                if name in found:
                    first, second = sorted((found[name], path))
                    raise UserError(
                        f"{root}: image {name!r} is in it twice, as {first} and as {second}; "
                        "move one of the folders out of the release"
                    )
                found[name] = path
            elif depth < DEPTH and not name.startswith(".") and is_folder():
                folders.append((f"{path}/", depth + 1))
    return found
