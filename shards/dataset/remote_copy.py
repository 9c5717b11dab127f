"""A packed dataset in a bucket, or on a web server, and the copies of its files on this disk.

dataset.json is asked for whenever the dataset is opened. Tables are copied when they are read. A shard is copied whole,
before it is used: 4,096 images come in three (224 px) to twelve (512 px) requests; image by image, each would be a
round trip. Every copy is compared with its sha256 in dataset.json on the way, and has its name only if it is right. A
copy that was cut off (a kill, a connection) is continued where it ended. fsspec does the transport and its retries.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from shards.dataset.cache import Cache, claim, copied
from shards.dataset.description import DATASET, content_of, dataset_identity
from shards.errors import UserError
from shards.storage.files import cannot_write, check_inside, publish, sha256_file
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.remote import reaching
from shards.words import counted

PIECE = 2**24  # bytes per request: at 50 ms until its first byte, most of a request's time goes into the others
POLL, PATIENCE = 0.1, 600.0  # seconds between looks at what other processes do; until no progress of theirs is an error


class Mirror:
    """The copies of the dataset at `source`, in a folder of `cache`. folder: where they are, laid out as there.

    Threads and processes may share it. waited: seconds that batches waited for copies; the loader adds to it.
    """

    def __init__(self, source: Location, info: Mapping, description: bytes, cache: Cache):
        """info: what dataset.json says, read from `description`. Raises UserError if the cache cannot be written."""
        content = content_of(info)  # it names the folder, lest one dataset claims the copies of another by its id
        if content != dataset_identity(info):
            raise UserError(f"{source / DATASET}: its id is not the hash of its catalog and shards; pack again")
        self.source, self.cache = source, cache
        self.folder = cache.dataset(content, str(source), description)
        self.waited = 0.0

    def holds(self, entry: Mapping) -> bool:
        """Whether a shard (its entry in dataset.json) has been copied."""
        return (self.folder / entry["name"]).exists()

    def offers(self, shards: list[Mapping]) -> bool:
        """Whether a size, given by its shards, is in the bucket or here: one may copy only some sizes there."""
        return any(map(self.holds, shards)) or any(
            storage_of(self.source / each["name"]).exists() for each in shards[:1]
        )

    def take_waited(self) -> float:
        """Seconds waited since this was last asked."""
        waited, self.waited = self.waited, 0.0
        return waited

    def outlook(self, pixels: int, shards: list[Mapping]) -> str:
        """What is here of a size and what is to come, in words."""
        missing = [entry["bytes"] for entry in shards if not self.holds(entry)]
        to_come = f"; {_gigabytes(sum(missing))} GB are copied when they are needed" if missing else ""
        here = f"{len(shards) - len(missing):,} of {counted(len(shards), 'shard')} of {pixels} px"
        return f"{self.source}: {here} are in {self.folder}{to_come}"

    def table(self, name: str, sha256: str) -> Path:
        """A copy of a small file. Raises UserError if it is not the one that dataset.json describes."""
        path = self.folder / name
        if path.exists():
            if sha256_file(path) == sha256:
                return path
            path.unlink(missing_ok=True)  # damaged, or of labels that were attached anew
        self._copy(name, sha256, None, lambda: False)
        return path

    def shard(self, entry: Mapping, ended: Callable[[], bool] = lambda: False) -> Path | None:
        """The copy of a shard; made first if need be.

        `ended` is asked again and again while it is made; None if it says so. Raises UserError if the bucket's is
        missing or not the one that was packed.
        """
        path = self._copy(entry["name"], entry["sha256"], entry["bytes"], ended)
        if path is not None and (found := path.stat().st_size) != entry["bytes"]:
            raise UserError(f"{path}: has {found} bytes, not {entry['bytes']}; delete it, and it is copied again")
        return path

    def check_room(self, pixels: int, shards: Iterable[Mapping], others: int = 0) -> int:
        """The bytes that are missing of these shards of a size, and those of others that go to the cache's disk.

        Raises UserError if they do not fit there.
        """
        free = shutil.disk_usage(self.folder).free  # first: what others copy meanwhile makes less missing
        missing = others + sum(
            entry["bytes"] - (copied(self.folder / entry["name"], entry["bytes"]) or 0)
            for entry in shards
            if not self.holds(entry)
        )
        if missing > free:
            raise UserError(
                f"{self.folder}: {missing:,} bytes of the {pixels} px shards{' and of other packs' * (others > 0)} are "
                f"still to be copied, but {free:,} bytes are free on its disk; give a --cache on a larger disk, or "
                "remove copies of sizes that are no longer used"
            )
        return missing

    def _copy(self, name: str, sha256: str, num_bytes: int | None, ended: Callable[[], bool]) -> Path | None:
        """num_bytes: of a shard; None for a table, which is copied in one go."""
        final = self.folder / name
        reached, since = None, time.monotonic()
        try:
            final.parent.mkdir(exist_ok=True)
            check_inside(self.folder, final.parent)
            while not final.exists():
                if ended():
                    return None
                if (part := claim(final, num_bytes or 0)) is not None:
                    with part:
                        if self._fill(part, name, sha256, num_bytes, ended):
                            publish(Path(part.name), final)
                    continue
                if (now := copied(final, num_bytes or 0)) != reached:
                    reached, since = now, time.monotonic()
                elif time.monotonic() - since > PATIENCE:
                    raise UserError(
                        f"{final}: another process copies it and has got no further for {PATIENCE / 60:g} minutes; "
                        "end that process (fuser names it), and this one continues its copy"
                    )
                time.sleep(POLL)
        except OSError as error:
            raise UserError(f"{cannot_write(final, error)}; --cache puts it elsewhere") from error
        return final

    def _fill(self, part: IO[bytes], name: str, sha256: str, num_bytes: int | None, ended: Callable[[], bool]) -> bool:
        """Complete a part; False if that needs another attempt. Raises UserError if it is not what was packed."""
        source, digest = self.source / name, hashlib.sha256()
        if num_bytes is None:
            part.truncate(0)
        while piece := part.read(PIECE):
            digest.update(piece)
        begun = part.tell()
        for piece in _pieces(source, begun, num_bytes):
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


def _pieces(source: Location, at: int, num_bytes: int | None) -> Iterator[bytes]:
    """The bytes of a file in the bucket from `at` on; a table (num_bytes None) in one go."""
    if num_bytes is None:
        with reaching(source):
            yield storage_of(source).read_bytes()
        return
    while at < num_bytes:
        stop = min(at + PIECE, num_bytes)
        try:
            with reaching(source):
                piece = storage_of(source).read_bytes(at, stop)
        except UserError:  # libraries word a piece behind the end as a bad connection
            found = storage_of(source).fingerprint()
            if found is None or found[0] is None or found[0] > at:
                raise
            raise _too_short(source, found[0], num_bytes) from None
        if len(piece) > stop - at:
            raise UserError(f"{source}: its server does not give parts of a file (HTTP ranges); use another server")
        if len(piece) < stop - at:
            raise _too_short(source, at + len(piece), num_bytes)
        yield piece
        at = stop


def _too_short(source: Location, found: int, num_bytes: int) -> UserError:
    return UserError(f"{source}: ends at byte {found}, {DATASET} says {num_bytes}; copy it there again, or pack again")


def _gigabytes(count: int) -> str:
    """Three digits, rounded up."""
    unit = 10 ** max(0, len(str(count)) - 3)
    return f"{-(-count // unit) * unit / 1e9:g}"
