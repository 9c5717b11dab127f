"""What can be done with a file or folder, wherever it is."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, Union

if TYPE_CHECKING:  # to load it takes longer than a command's --help may
    from upath import UPath

# a Union: the operator | takes no name that is not loaded
Location: TypeAlias = Union[Path, "UPath"]  # noqa: UP007  on this disk, or in a bucket or on a web server (`shards.storage.remote.place`)


class Entry(NamedTuple):
    """One name in a folder. What else is known of it is asked for: some file systems have to look."""

    name: str
    is_folder: Callable[[], bool]
    num_bytes: Callable[[], int]


class Storage(Protocol):
    """One file or folder and what is done with it: `Disk` or `Bucket`, as `storage_of` finds.

    A bucket that fails or refuses is a UserError; an absent file is FileNotFoundError, as on a disk.
    """

    @property
    def local(self) -> bool:
        """Whether it is on this machine, where a file can be mapped and locked."""

    def read_bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a file; all of them without."""

    def read_each(self, names: Sequence[str]) -> list[bytes]:
        """Whole files of a folder; of a bucket together, as each alone is a round trip."""

    def sha256(self) -> str:
        """Of a file, in hex."""

    def exists(self) -> bool:
        """Whether the file is there."""

    def has_folder(self) -> bool:
        """Whether the folder is there; of a web server, which has none, its files will tell."""

    def entries(self) -> Iterator[Entry]:
        """What a folder holds."""

    def fingerprint(self) -> list | None:
        """What tells one making of a file from the next, as JSON; None if it cannot be seen."""

    def write_bytes(self, data: bytes) -> None:
        """Write a file so that it has its name only when it is whole."""

    def publish(self, aside: Path, moved: Callable[[], object] | None = None) -> None:
        """Move a complete file of this machine here. `moved` is called now and then while that takes long."""

    def make_folder(self) -> None:
        """Make the folder if it is not there and folders exist here."""

    def remove_tree(self) -> None:
        """Remove a folder with all that is in it, as far as that is possible."""

    def remove_parts(self) -> None:
        """Remove what killed writers left in a folder and in the folders directly in it."""

    def contains(self, other: Location) -> bool:
        """Whether another place is this folder or lies in it."""

    def real_path(self) -> str | None:
        """Where it really is, links followed; None where there are no links."""

    def check_writable(self) -> None:
        """Raises UserError if nothing can be written there whatever the permissions are."""

    def work_folder(self, name: str) -> Path:
        """The folder on this machine for unfinished files and locks of what is written here."""
