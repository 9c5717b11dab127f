"""Where a file or folder is, and what a folder holds."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

if TYPE_CHECKING:  # to load it takes longer than a command's --help may
    from upath import UPath

# a Union: the operator | takes no name that is not loaded
Location: TypeAlias = Union[Path, "UPath"]  # noqa: UP007  on this disk, or in a bucket or on a web server (`shards.storage.remote.place`)


class Entry(NamedTuple):
    """One name in a folder. What else is known of it is asked for: some file systems have to look."""

    name: str
    is_folder: Callable[[], bool]
    num_bytes: Callable[[], int]
