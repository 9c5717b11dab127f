"""Paths as tables write them, as one text per file below the release's folder.

Two spellings of one path would be two images of the same pixels. What has to be looked for on the disk is looked for
once for all paths of a kind: 400,000 looks would take minutes on a network disk.
"""

import os
import re
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import UserError
from shards.storage.location import Location
from shards.storage.places import storage_of

TRIED, SOME = 100, 10  # paths that are looked for on a disk, and in a store
_UNUSUAL = r"^\s|\s$|^/|^[A-Za-z]+:|//|(?:^|/)\.{1,2}(?:/|$)|\\|%[0-9A-Fa-f]{2}|[^\x00-\x7f]"
_DRIVE = re.compile(r"([A-Za-z]:|//[^/]+)/")


def relative_paths(texts: pd.Series, root: Location) -> tuple[pd.Series, tuple[str, ...]]:
    """The paths of a table, each relative to `root`, and what is to be said of them.

    Absolute paths below `root` in any spelling, file:// addresses, blanks around, doubled slashes, "." and ".." are
    made plain. Windows separators, %20 and letters with accents in another Unicode form are read so if the file is not
    there as it is written, and is there then. What is not below `root` stays as it is.
    """
    given = pa.array(texts, pa.large_string(), from_pandas=True)
    unusual = pc.match_substring_regex(given, _UNUSUAL)
    if not pc.any(unusual).as_py():
        return texts, ()
    before = given.filter(unusual).unique().to_pylist()
    paths, notes = [_from_url(text.strip()) for text in before], []
    kinds: list[tuple[Callable[[str], str], str]] = [
        (lambda path: path.replace("\\", "/"), "with slashes"),
        (unquote, "without the escapes of an address"),
        (partial(unicodedata.normalize, "NFC"), "in the Unicode form NFC, as the files are named"),
        (partial(unicodedata.normalize, "NFD"), "in the Unicode form NFD, as the files are named"),
    ]
    for place, (written, words) in enumerate(kinds):
        if place == 1:  # a path of Windows has no folders before
            paths = _below(paths, root)
        new = _rewritten(paths, written, root)
        if one := next(((path, as_now) for path, as_now in zip(paths, new, strict=True) if path != as_now), None):
            count = sum(path != as_now for path, as_now in zip(paths, new, strict=True))
            notes.append(f"{count:,} paths are read {words}: {ascii(one[0])} is {ascii(_below([one[1]], root)[0])}")
        paths = new
    changed = {text: path for text, path in zip(before, paths, strict=True) if text != path}
    return texts.map(lambda text: changed.get(text, text)), tuple(notes)


def _rewritten(paths: list[str], written: Callable[[str], str], root: Location) -> list[str]:
    """Paths in another spelling if files are there only then."""
    of_kind = [path for path in paths if written(path) != path]
    absent = [path for path in of_kind[:TRIED] if not is_there(root, path)]
    if not any(is_there(root, path) for path in _below([written(path) for path in absent], root)):
        return paths
    mixed = len(absent) < len(of_kind[:TRIED])  # then each has to be looked for
    return [path if mixed and is_there(root, path) else written(path) for path in paths]


def near(root: Location, path: str) -> str:
    """For a message on a file that is absent: what is there instead, or nothing."""
    place = ""
    if "\\" in path or _DRIVE.match(path):
        return "; write paths with / and relative to --source"
    for part in PurePosixPath(path).parts:
        try:
            names = sorted(entry.name for entry in storage_of(root / place if place else root).entries())
        except (OSError, UserError):  # a file, or a server that lists nothing
            return ""
        if part not in names:
            alike = [name for name in names if _folded(name) == _folded(part)]
            alike += [name for name in names if PurePosixPath(name).stem == PurePosixPath(part).stem]
            return f"; {place + alike[0]!r} is there" if alike else ""
        place += f"{part}/"
    return ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _from_url(text: str) -> str:
    found = re.fullmatch(r"(?is)file:(?://(?:localhost)?)?(/.*)", text)
    return unquote(found.group(1)) if found else text


def is_there(root: Location, path: str) -> bool:
    """Whether a file or folder is there; no disk has some names."""
    try:
        return storage_of(root / path).exists()
    except (OSError, ValueError):
        return False


def share_there(paths: pd.Series, root: Location) -> float:
    """Which share of some paths, spread over all, are files: 0 to 1."""
    most = TRIED if storage_of(root).local else SOME  # in a store every look is a round trip
    some = paths.iloc[np.unique(np.linspace(0, len(paths) - 1, most).astype(int))]
    there = [path for path in some if is_there(root, path)]
    if storage_of(root).local:
        there = [path for path in there if not storage_of(root / path).has_folder()]
    return len(there) / len(some)


def _below(paths: list[str], root: Location) -> list[str]:
    """Paths relative to `root` as far as they are below it, without doubled slashes, "." and ".."."""
    starts = [f"{each}/" for each in (root.absolute(), storage_of(root).real_path()) if each is not None]
    elsewhere: list[str] = []
    real_folder = cache(partial(_real_folder, root))

    def relative(path: str) -> str:
        single = re.sub(r"(?<!:)/(?:\.?/)+", "/", path)  # the two of an address stay
        for text in (single, path):
            start = next(filter(text.startswith, starts), None)
            if start is None and (text.startswith("/") or _DRIVE.match(text)) and len(elsewhere) < TRIED:
                start = _start(text, root)
                (elsewhere if start is None else starts).append(start or text)
            if start is not None:
                return text[len(start) :]
        return single

    return [_without_dots(relative(path), real_folder) for path in paths]


def _start(path: str, root: Location) -> str | None:
    """The part of an absolute path that names `root`, by whatever links; of a path of Windows, that before the longest
    part that is below `root`."""
    if drive := _DRIVE.match(path):
        places = [found.end() for found in re.finditer("/", path) if found.end() >= drive.end()]
        return next((path[:place] for place in places if place < len(path) and is_there(root, path[place:])), None)
    if isinstance(root, Path):
        for place in [found.start() for found in re.finditer("/", path)][:0:-1]:
            try:
                if root.samefile(path[:place]):
                    return path[: place + 1]
            except (OSError, ValueError):
                continue
    return None


def _without_dots(path: str, real_folder: Callable[[str], str]) -> str:
    """Without ".", and without ".." where it leads to another folder below the release's."""
    path = path.removeprefix("./")
    folder, _, name = path.rpartition("/")
    if ".." not in folder.split("/") or "\0" in path:
        return path
    found = real_folder(folder)
    return path if found.split("/")[0] == ".." else name if found == "." else f"{found}/{name}"


def _real_folder(root: Location, folder: str) -> str:
    """A folder relative to `root`, links followed: ".." behind a link is not the folder before it."""
    inside, real = storage_of(root).real_path(), storage_of(root / folder).real_path()
    return os.path.normpath(folder) if inside is None or real is None else os.path.relpath(real, inside)
