"""One shard in all sizes: an independent task that may be killed and made again, to the same bytes.

Its files are written in a folder of the packing run's own and get their final names when all are complete (into a
bucket they are uploaded then); the record comes last. A worker that outlives its killed parent ends itself, and could
rename nothing if it did not: the next run removes the folder.

A worker imports neither pandas nor pyarrow: they would take longer to load than 20 images take to pack.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from shards.dataset.content import content, image_hash
from shards.decoding.decoded import RejectedImage
from shards.packing.options import PackOptions
from shards.packing.tarshard import ShardWriter
from shards.renditions.decoder import Decoder
from shards.renditions.options import Size
from shards.renditions.rendition import renditions
from shards.storage.files import json_bytes, sha256_bytes
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.workers import ALIVE, DONE, end_with

WORK = ".packing"


@dataclass(frozen=True)
class ShardTask:
    """root: the release; inside: its real path, which no link may leave (None: links are followed anywhere); out: the
    packed dataset; tmp: this run's folder for unfinished files, on the packer's machine; parent: the packing process,
    without which a worker of the same machine ends; stall: seconds in which an image must be decoded. root and out may
    be in a store (`shards.storage.remote`). decoded_for: per size of `options` what `renditions` decodes for, the
    largest size without; hashed: for which of them an image's pixels are hashed."""

    root: Location
    inside: str | None
    out: Location
    tmp: Path
    options: PackOptions
    shard: int
    parent: int
    stall: float
    decoded_for: tuple[int, ...] = ()
    hashed: int | None = None


class Progress(Protocol):
    """Takes DONE for each image, and ALIVE while one takes long."""

    def write(self, mark: bytes, /) -> object: ...


class PlannedImage(NamedTuple):
    """A row of the plan, with what is asked of its file: sha256, the published hash ("" if there is none, None if
    hashes are not checked); inverted: the release says MONOCHROME1; findings: as in
    `shards.packing.tasks.findings_of`."""

    row: int
    key: str
    image_id: str
    study_id: str
    subject_id: str
    view: str
    view_position: str
    path: str
    sha256: str | None
    inverted: bool
    findings: dict[str, dict]


def record_path(out: Location, shard: int) -> Location:
    """A finished shard's record: what the catalog and dataset.json need to know of it."""
    return out / WORK / "records" / f"{shard:06d}.json"


def marks_path(task: ShardTask) -> Path:
    """A shard in the making: DONE per image read, so that the packer sees progress, and the worker's process id."""
    return task.tmp / f"{task.shard:06d}.{os.getpid()}.marks"


def make_shard(task: ShardTask, images: Sequence[PlannedImage]) -> int:
    """Read `images` one at a time and write them; memory does not grow with anything. Returns the shard.

    Raises OSError if a file cannot be written, UserError if a store fails or refuses; nothing then has a final name
    that it should not have.
    """
    end_with(task.parent)
    marks = marks_path(task)
    try:
        with marks.open("ab", buffering=0) as progress:
            write_shard(task, images, progress, task.tmp)
    finally:
        marks.unlink(missing_ok=True)
    return task.shard


def write_shard(task: ShardTask, images: Sequence[PlannedImage], progress: Progress, tmp: Path) -> None:
    """The shard itself, in a folder of this attempt's own in `tmp`: two that make the same shard at the same time, as
    Dask may let them, write the same bytes and disturb each other in nothing."""
    # what cannot be removed must not make an error of a finished shard
    with tempfile.TemporaryDirectory(prefix=f"{task.shard:06d}.", dir=tmp, ignore_cleanup_errors=True) as aside:
        _make(task, images, progress, Path(aside))


def packed_image(
    options: PackOptions,
    data: bytes,
    name: str,
    inverted: bool,
    decoded_for: tuple[int, ...] = (),
    hashed: int | None = None,
) -> tuple[list[bytes], dict[str, object]]:
    """Its renditions, and what the record says of it: little to hand from the process that decodes to the worker.

    One decoding makes them all, unless the sizes came to the dataset at different times (`ShardTask`).
    """
    sizes = options.sizes
    largest = max(size.pixels for size in sizes)
    covers, hashed = decoded_for or (largest,) * len(sizes), hashed or largest
    made: dict[Size, bytes] = {}
    for covered in {*covers, hashed}:
        mine = tuple(size for size, each in zip(sizes, covers, strict=True) if each == covered)
        images, found = renditions(data, name, replace(options, sizes=mine or (Size(hashed),)), inverted, covered)
        made |= zip(mine, images, strict=False)
        if covered == hashed:
            source = found
    facts: dict[str, object] = {
        "height": source.height,
        "width": source.width,
        "converted": ", ".join(source.converted) or None,
        "pixels": source.pixels,
    }
    return [made[size] for size in sizes], facts


def _make(task: ShardTask, planned: Sequence[PlannedImage], progress: Progress, aside: Path) -> None:
    made = [_SizeInTheMaking(size, aside / f"{size.folder}-{task.shard:06d}") for size in task.options.sizes]
    rows: dict[str, list] = {"height": [], "width": [], "converted": [], "pixels": []}
    rejects = []
    try:
        make = partial(packed_image, task.options, decoded_for=task.decoded_for, hashed=task.hashed)
        with Decoder(make, task.stall, lambda: progress.write(ALIVE)) as decode:
            for image in planned:
                path = task.root / image.path
                images: Sequence[bytes | None] = [None] * len(made)
                facts: dict[str, object] = {}
                try:
                    images, facts = decode(path, task.inside, image.sha256, image.inverted)
                except RejectedImage as error:
                    seen = None if error.may_pass else storage_of(path).fingerprint()
                    rejects.append([image.row, str(error), seen])
                for column, values in rows.items():
                    values.append(facts.get(column))
                meta = _sample_json(image)
                for each, data in zip(made, images, strict=True):
                    each.write(image.key, data, meta)
                progress.write(DONE)
        for each in made:
            each.writer.close()
    except BaseException:
        for each in made:
            each.writer.abort()
        raise
    sizes, samples = {}, len(planned) - len(rejects)
    for each in made:
        each.publish(task, samples, lambda: progress.write(DONE))
        sizes[each.size.folder] = each.record(samples)
        progress.write(DONE)  # flushing to the medium may take a while too
    record = {"shard": task.shard, **rows, "rejects": rejects, "sizes": sizes}
    _publish_bytes(aside / "record.json", record_path(task.out, task.shard), json_bytes(record))


class _SizeInTheMaking:
    """One size of a shard: its tar at `aside`, and where in it each image is (None: rejected)."""

    def __init__(self, size: Size, aside: Path):
        self.size, self._aside = size, aside
        self.writer = ShardWriter(aside.with_suffix(".tar"))
        self._offset: list[int | None] = []
        self._length: list[int | None] = []
        self._hashes: list[int] = []

    def write(self, key: str, data: bytes | None, meta: bytes) -> None:
        parts = {self.size.extension: data, "json": meta} if data else None
        offset, length = self.writer.write(key, parts) if parts else (None, None)
        self._offset.append(offset)
        self._length.append(length)
        if data:
            self._hashes.append(image_hash(key, data))

    def publish(self, task: ShardTask, samples: int, moved: Callable[[], object]) -> None:
        """Give tar and index their names; a shard without a sample has neither, as DALI refuses an empty one."""
        if samples:
            final = task.out / self.size.folder / f"{task.shard:06d}.tar"
            storage_of(final).publish(self._aside.with_suffix(".tar"), moved)
            _publish_bytes(self._aside.with_suffix(".idx"), final.with_suffix(".idx"), self.writer.index.encode())

    def record(self, samples: int) -> dict:
        writer = self.writer
        index_sha256 = sha256_bytes(writer.index.encode())
        made = {"samples": samples, "bytes": writer.num_bytes, "sha256": writer.sha256, "index_sha256": index_sha256}
        return {**made, "content": content(self._hashes), "offset": self._offset, "length": self._length}


def _publish_bytes(aside: Path, final: Location, data: bytes) -> None:
    aside.write_bytes(data)
    storage_of(final).publish(aside)


def _sample_json(image: PlannedImage) -> bytes:
    names = ("image_id", "study_id", "subject_id", "view", "view_position", "findings")
    sample = {name: getattr(image, name) for name in names}
    return json.dumps(sample, ensure_ascii=False, separators=(",", ":")).encode()
