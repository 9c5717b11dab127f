"""Which storage a place is in."""

from pathlib import Path
from typing import TypeAlias

from shards.storage.disk import Disk
from shards.storage.location import Location
from shards.storage.remote import Bucket

Storage: TypeAlias = Disk | Bucket  # with the same methods, which `Disk` describes


def storage_of(path: Location) -> Storage:
    """The storage of a path: of this disk, or of what `shards.storage.remote.place` made of an address."""
    return Disk(path) if isinstance(path, Path) else Bucket(path)
