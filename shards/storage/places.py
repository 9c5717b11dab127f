"""Which storage a place is in."""

from pathlib import Path

from shards.storage.disk import Disk
from shards.storage.protocol import Location, Storage
from shards.storage.remote import Bucket


def storage_of(path: Location) -> Storage:
    """The storage of a path: of this disk, or of what `shards.storage.remote.place` made of an address."""
    return Disk(path) if isinstance(path, Path) else Bucket(path)
