"""A file or folder on this disk."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shards.storage import files
from shards.storage.location import Entry, Location


@dataclass(frozen=True)
class Disk:
    """A file or folder on this machine; `Bucket` has the same methods.

    An absent file is FileNotFoundError in both. A bucket that fails or refuses is a UserError.

    local: whether it is on this machine, where a file can be mapped and locked.
    """

    path: Path
    local = True

    def read_bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of a file; all of them without."""
        with files.open_regular(self.path) as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    def read_into(self, room: Callable[[int], memoryview]) -> memoryview:
        """All bytes of a file, read into what `room` gives for so many: without pages that are new for every file."""
        with files.open_regular(self.path) as file:
            place = room(os.fstat(file.fileno()).st_size)
            return place[: file.readinto(place)]

    def read_each(self, names: Sequence[str]) -> list[bytes]:
        """Whole files of a folder; of a bucket together, as each alone is a round trip."""
        return [Disk(self.path / name).read_bytes() for name in names]

    def sha256(self) -> str:
        return files.sha256_file(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def has_folder(self) -> bool:
        """Whether the folder is there; of a web server, which has none, its files will tell."""
        return self.path.is_dir()

    def entries(self) -> Iterator[Entry]:
        with os.scandir(self.path) as found:
            for entry in found:
                yield Entry(entry.name, entry.is_dir, partial(_num_bytes, entry))

    def stat(self) -> os.stat_result | None:
        """What is known of a file before it is read; None of a bucket's, where asking takes as long as reading."""
        return self.path.stat()

    def fingerprint(self) -> list | None:
        """What tells one making of a file from the next, as JSON: size in bytes and time of change; None if unseen."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return [found.st_size, found.st_mtime_ns]

    def write_bytes(self, data: bytes) -> None:
        """Write a file so that it has its name only when it is whole."""
        files.write_bytes(self.path, data)

    def publish(self, aside: Path, moved: Callable[[], object] | None = None) -> None:
        """Move a complete file of this machine here. `moved` is called now and then while that takes long."""
        files.publish(aside, self.path)

    def make_folder(self) -> None:
        """Make the folder if it is not there and folders exist here. Raises UserError if it is a link."""
        files.check_inside(self.path.parent, self.path)
        self.path.mkdir(exist_ok=True)

    def remove_tree(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_parts(self) -> None:
        """Remove what killed writers left in a folder and in the folders directly in it, links aside."""
        for folder in (self.path, *(path for path in self.path.iterdir() if path.is_dir() and not path.is_symlink())):
            files.remove_parts(folder)

    def contains(self, other: Location) -> bool:
        """Whether another place is this folder or lies in it."""
        return isinstance(other, Path) and other.resolve().is_relative_to(self.path.resolve())

    def real_path(self) -> str:
        """Where it really is, links followed; None where there are no links."""
        return os.path.realpath(self.path)

    def check_writable(self) -> None:
        """Raises UserError if nothing can be written there whatever the permissions are."""

    def work_folder(self, name: str) -> Path:
        """The folder on this machine for unfinished files and locks of what is written here."""
        return self.path / name


def _num_bytes(entry: os.DirEntry[str]) -> int:
    return entry.stat().st_size
