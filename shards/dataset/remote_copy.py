"""A packed dataset in a bucket, or on a web server, and the copies of its files on this disk.

dataset.json is asked for whenever the dataset is opened. Tables are copied when they are read. A shard is copied whole,
before it is used: 4,096 images come in three (224 px) to twelve (512 px) requests; image by image, each would be a
round trip. Every copy is compared with its sha256 in dataset.json on the way, and has its name only if it is right. A
copy that was cut off (a kill, a connection) is continued where it ended. fsspec does the transport and its retries.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from shards.dataset.cache import Cache, Full, in_use, locked
from shards.dataset.description import DATASET, dataset_identity
from shards.errors import UserError
from shards.storage.files import cannot_write, is_named, publish, sha256_file
from shards.storage.places import storage_of
from shards.storage.protocol import Location
from shards.storage.remote import reaching

PIECE = 2**24  # bytes per request: at 50 ms until its first byte, most of a request's time goes into the others
POLL, PATIENCE = 0.1, 600.0  # seconds between looks at what other processes do; until no progress of theirs is an error


class Mirror:
    """The copies of the dataset at `source`, in a folder of `cache`. folder: where they are, laid out as there.

    Threads and processes may share it. waited: seconds that batches waited for copies, counted by who hands them out.
    """

    def __init__(self, source: Location, info: Mapping, description: bytes, cache: Cache):
        """info: what dataset.json says, read from `description`. Raises UserError if the cache cannot be written."""
        if info["id"] != dataset_identity(info):  # it names the folder
            raise UserError(f"{source / DATASET}: its id is not the hash of its catalog and shards; pack again")
        self.source, self.cache = source, cache
        self.folder = cache.dataset(info["id"], str(source), description)
        self.waited = 0.0

    def holds(self, entry: Mapping) -> bool:
        """Whether a shard (its entry in dataset.json) has been copied."""
        return (self.folder / entry["name"]).exists()

    def offers(self, shards: list[Mapping]) -> bool:
        """Whether a size, given by its shards, is in the bucket or here: one may copy only some sizes there."""
        return any(map(self.holds, shards)) or storage_of(self.source / shards[0]["name"]).exists()

    def take_waited(self) -> float:
        """Seconds waited since this was last asked."""
        waited, self.waited = self.waited, 0.0
        return waited

    def outlook(self, pixels: int, shards: list[Mapping]) -> str:
        """What is here of a size and what is to come, in words."""
        missing = [entry["bytes"] for entry in shards if not self.holds(entry)]
        to_come = f"; {_gigabytes(sum(missing))} GB are copied when they are needed" if missing else ""
        here = f"{len(shards) - len(missing):,} of {len(shards):,} shards of {pixels} px"
        return f"{self.source}: {here} are in {self.folder}{to_come}"

    def table(self, name: str, sha256: str) -> Path:
        """A copy of a small file. Raises UserError if it is not the one that dataset.json describes."""
        path = self.folder / name
        if path.exists():
            if sha256_file(path) == sha256:
                return path
            path.unlink(missing_ok=True)  # damaged, or of labels that were attached anew
        if (copy := self._copy(name, sha256, None, lambda: False)) is not None:
            copy.close()
        return path

    def shard(self, entry: Mapping, ended: Callable[[], bool] = lambda: False) -> BinaryIO | None:
        """The copy of a shard, open for reading, and in use while it or a mapping of it is; made first if need be.

        `ended` is asked again and again; None if it says so. Raises UserError if the bucket's is missing or not the
        one that was packed.
        """
        return self._copy(entry["name"], entry["sha256"], entry["bytes"], ended)

    def check_room(self, need: int, what: str, else_way: str = "") -> None:
        """Raises UserError if the cache may not hold `need` bytes at a time; `what` says for what."""
        limit = self.cache.limit
        if limit is not None and need > limit:
            raise UserError(
                f"{self.cache.folder}: a cache of {_gigabytes(limit)} GB cannot hold {what}; "
                f"give --cache-size {_gigabytes(need)} or more{else_way}"
            )

    def _copy(self, name: str, sha256: str, size: int | None, ended: Callable[[], bool]) -> BinaryIO | None:
        final, full_since = self.folder / name, None
        reached, since = None, time.monotonic()
        try:
            final.parent.mkdir(exist_ok=True)
            while not ended():
                if (file := in_use(final)) is not None:
                    found = os.fstat(file.fileno()).st_size
                    if size not in (None, found):
                        raise UserError(f"{final}: has {found} bytes, not {size}; delete it, and it is copied again")
                    return file
                try:
                    if (part := self.cache.claim(final, size or 0)) is not None:
                        with contextlib.ExitStack() as stack:
                            stack.callback(part.close)
                            if self._fill(part, name, sha256, size, ended) and _named(part, final):
                                stack.pop_all()
                                return part
                            continue
                    full_since = None
                    if (now := self.cache.reached(final, size or 0)) != reached:
                        reached, since = now, time.monotonic()
                    elif time.monotonic() - since > PATIENCE:
                        raise UserError(
                            f"{final}: another process copies it and has got no further for {PATIENCE / 60:g} minutes; "
                            "end that process (fuser names it), and this one continues its copy"
                        )
                    time.sleep(POLL)
                except Full:
                    full_since = full_since or time.monotonic()
                    if time.monotonic() - full_since > PATIENCE:
                        raise UserError(
                            f"{self.cache.folder}: full of copies that are in use, for {PATIENCE / 60:g} minutes; "
                            "give a larger --cache-size, or another --cache"
                        ) from None
                    time.sleep(10 * POLL)  # looking for room means looking at all copies
        except OSError as error:
            failed = cannot_write(final, error)
            raise UserError(f"{failed}; --cache-size bounds the cache, --cache puts it elsewhere") from error
        return None

    def _fill(self, part: BinaryIO, name: str, sha256: str, size: int | None, ended: Callable[[], bool]) -> bool:
        """Complete a part; False if that needs another attempt. Raises UserError if it is not what was packed."""
        source, digest = self.source / name, hashlib.sha256()
        if size is None:
            part.truncate(0)
        while piece := part.read(PIECE):
            digest.update(piece)
        begun = part.tell()
        for piece in _pieces(source, begun, size):
            if ended():
                return False
            part.write(piece)
            digest.update(piece)  # without the GIL
        part.flush()
        if digest.hexdigest() == sha256:
            return True
        part.truncate(0)
        if begun:  # it may be at fault: a power cut leaves zeros; the next attempt begins anew
            return False
        raise UserError(
            f"{source}: its sha256 is not the one in {DATASET}: it was changed or replaced since it was packed; "
            "copy it there again, or pack again"
        )


def _pieces(source: Location, at: int, size: int | None) -> Iterator[bytes]:
    """The bytes of a file in the bucket from `at` on; a table (size None) in one go."""
    if size is None:
        with reaching(source):
            yield storage_of(source).read_bytes()
        return
    while at < size:
        stop = min(at + PIECE, size)
        try:
            with reaching(source):
                piece = storage_of(source).read_bytes(at, stop)
        except UserError:  # libraries word a piece behind the end as a bad connection
            found = storage_of(source).fingerprint()
            if found is None or found[0] is None or found[0] > at:
                raise
            raise _too_short(source, found[0], size) from None
        if len(piece) > stop - at:
            raise UserError(f"{source}: its server does not give parts of a file (HTTP ranges); use another server")
        if len(piece) < stop - at:
            raise _too_short(source, at + len(piece), size)
        yield piece
        at = stop


def _too_short(source: Location, found: int, size: int) -> UserError:
    return UserError(f"{source}: ends at byte {found}, {DATASET} says {size}; copy it there again, or pack again")


def _named(part: BinaryIO, final: Path) -> bool:
    """Give a complete part its name, and keep it as one that is in use; False if it was removed in between."""
    publish(Path(part.name), final)
    return locked(part, fcntl.LOCK_SH) and is_named(part, final)


def _gigabytes(count: int) -> str:
    """Three digits, rounded up."""
    unit = 10 ** max(0, len(str(count)) - 3)
    return f"{-(-count // unit) * unit / 1e9:g}"
