"""A file or folder on this disk."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shards.storage import files
from shards.storage.protocol import Entry, Location


@dataclass(frozen=True)
class Disk:
    """`shards.storage.protocol.Storage` on this machine."""

    path: Path
    local = True

    def read_bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    def read_each(self, names: Sequence[str]) -> list[bytes]:
        return [(self.path / name).read_bytes() for name in names]

    def sha256(self) -> str:
        return files.sha256_file(self.path)

    def exists(self) -> bool:
        return self.path.exists()

    def has_folder(self) -> bool:
        return self.path.is_dir()

    def entries(self) -> Iterator[Entry]:
        with os.scandir(self.path) as found:
            for entry in found:
                yield Entry(entry.name, entry.is_dir, partial(_num_bytes, entry))

    def fingerprint(self) -> list | None:
        """Size in bytes and time of change."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return [found.st_size, found.st_mtime_ns]

    def write_bytes(self, data: bytes) -> None:
        files.write_bytes(self.path, data)

    def publish(self, aside: Path, moved: Callable[[], object] | None = None) -> None:
        files.publish(aside, self.path)

    def make_folder(self) -> None:
        self.path.mkdir(exist_ok=True)

    def remove_tree(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def remove_parts(self) -> None:
        for folder in (self.path, *(path for path in self.path.iterdir() if path.is_dir())):
            files.remove_parts(folder)

    def contains(self, other: Location) -> bool:
        return isinstance(other, Path) and other.resolve().is_relative_to(self.path.resolve())

    def real_path(self) -> str:
        return os.path.realpath(self.path)

    def check_writable(self) -> None:
        """Permissions are found out by writing."""

    def work_folder(self, name: str) -> Path:
        return self.path / name


def _num_bytes(entry: os.DirEntry[str]) -> int:
    return entry.stat().st_size
