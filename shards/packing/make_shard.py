"""One shard in all sizes: an independent task that may be killed and made again, to the same bytes.

Its files are written in a folder of the packing run's own and get their final names when all are complete (into a
bucket they are uploaded then); the record comes last. A worker that outlives its killed parent ends itself, and could
rename nothing if it did not: the next run removes the folder.

A worker imports neither pandas nor pyarrow: they would take longer to load than 20 images take to pack.
"""

import json
import os
import select
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2

from shards.packing.rendition import Size, renditions
from shards.packing.source import RejectedImage
from shards.packing.tarshard import ShardWriter
from shards.storage.files import json_bytes, publish, sha256_bytes
from shards.storage.remote import is_remote, seen

WORK = ".packing"


@dataclass(frozen=True)
class ShardTask:
    """root: the release; inside: its real path, which no link may leave (None: links are followed anywhere); out: the
    packed dataset; tmp: this run's folder for unfinished files, on the packer's machine; parent: the packing process,
    without which a worker of the same machine ends. root and out may be in a store (`shards.storage.remote`)."""

    root: Path
    inside: str | None
    out: Path
    tmp: Path
    sizes: tuple[Size, ...]
    fit: str
    quality: int
    window: str
    shard: int
    parent: int


class Progress(Protocol):
    def write(self, mark: bytes, /) -> object: ...


class PlannedImage(NamedTuple):
    """A row of the plan, with what is asked of its file: sha256, the published hash ("" if there is none, None if
    hashes are not checked); inverted: the release says MONOCHROME1; findings: as in
    `shards.packing.findings.findings_of`."""

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


def record_path(out: Path, shard: int) -> Path:
    """A finished shard's record: what the catalog and dataset.json need to know of it."""
    return out / WORK / "records" / f"{shard:06d}.json"


def marks_path(task: ShardTask) -> Path:
    """A shard in the making: one byte per image read, so that the packer sees progress, and the worker's process id."""
    return task.tmp / f"{task.shard:06d}.{os.getpid()}.marks"


def fingerprint(path: Path) -> list | None:
    """What a file looked like when it was rejected: size in bytes and time of change; None if it cannot be seen."""
    if is_remote(path):
        return seen(path)
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def make_shard(task: ShardTask, images: Sequence[PlannedImage]) -> int:
    """Read `images` one at a time and write them; memory does not grow with anything. Returns the shard.

    Raises OSError if a file cannot be written, UserError if a store fails or refuses; nothing then has a final name
    that it should not have.
    """
    _end_with(task.parent)
    cv2.setNumThreads(1)  # the workers are the parallelism
    marks = marks_path(task)
    try:
        with marks.open("ab", buffering=0) as progress:
            write_shard(task, images, progress, task.tmp)
    finally:
        marks.unlink(missing_ok=True)
    return task.shard


def write_shard(task: ShardTask, images: Sequence[PlannedImage], progress: Progress, tmp: Path) -> None:
    """The shard itself, in a folder of this attempt's own in `tmp`: two that make the same shard at the same time, as
    Dask may let them, write the same bytes and disturb each other in nothing. `progress` gets a byte per image."""
    # what cannot be removed must not make an error of a finished shard
    with tempfile.TemporaryDirectory(prefix=f"{task.shard:06d}.", dir=tmp, ignore_cleanup_errors=True) as aside:
        _make(task, images, progress, Path(aside))


def _make(task: ShardTask, planned: Sequence[PlannedImage], progress: Progress, aside: Path) -> None:
    names = [f"{size.folder}-{task.shard:06d}" for size in task.sizes]
    writers = [ShardWriter(aside / f"{name}.tar") for name in names]
    record = {"shard": task.shard, "height": [], "width": [], "converted": [], "rejects": []}
    spans = [{"offset": [], "length": []} for _ in writers]
    try:
        for image in planned:
            path = task.root / image.path
            try:
                images, source = renditions(
                    *(path, task.sizes, task.fit, task.quality),
                    *(task.inside, image.sha256, task.window, image.inverted),
                )
                height, width, converted = source.height, source.width, ", ".join(source.converted) or None
            except RejectedImage as error:
                record["rejects"].append([image.row, str(error), None if error.may_pass else fingerprint(path)])
                images, height, width, converted = [None] * len(writers), None, None, None
            record["height"].append(height)
            record["width"].append(width)
            record["converted"].append(converted)
            meta = _sample_json(image)
            for writer, size, data, span in zip(writers, task.sizes, images, spans, strict=True):
                parts = {size.extension: data, "json": meta}
                offset, length = writer.write(image.key, parts) if data else (None, None)
                span["offset"].append(offset)
                span["length"].append(length)
            progress.write(b".")
        for writer in writers:
            writer.close()
    except BaseException:
        for writer in writers:
            writer.abort()
        raise
    samples = len(planned) - len(record["rejects"])
    record["sizes"] = {}
    for size, name, writer, span in zip(task.sizes, names, writers, spans, strict=True):
        made = _publish_size(task, size, aside / name, writer, samples, lambda: progress.write(b"."))
        record["sizes"][size.folder] = {"samples": samples, **made, **span}
        progress.write(b".")  # flushing to the medium may take a while too
    _publish_bytes(aside / "record.json", record_path(task.out, task.shard), json_bytes(record))


def _publish_size(
    task: ShardTask, size: Size, aside: Path, writer: ShardWriter, samples: int, moved: Callable[[], object]
) -> dict:
    """Give a tar and its index their names; a shard without a sample has neither, as DALI refuses an empty one."""
    if samples:
        final = task.out / size.folder / f"{task.shard:06d}.tar"
        publish(aside.with_suffix(".tar"), final, moved)
        _publish_bytes(aside.with_suffix(".idx"), final.with_suffix(".idx"), writer.index.encode())
    return {"bytes": writer.bytes, "sha256": writer.sha256, "index_sha256": sha256_bytes(writer.index.encode())}


def _publish_bytes(aside: Path, final: Path, data: bytes) -> None:
    aside.write_bytes(data)
    publish(aside, final)


def _sample_json(image: PlannedImage) -> bytes:
    names = ("image_id", "study_id", "subject_id", "view", "view_position", "findings")
    sample = {name: getattr(image, name) for name in names}
    return json.dumps(sample, ensure_ascii=False, separators=(",", ":")).encode()


_watched: set[int] = set()


def _end_with(parent: int) -> None:
    """End this worker when the packing process dies. joblib's workers would go on with the queue, then idle."""
    if parent == os.getpid() or parent in _watched:
        return
    _watched.add(parent)
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(1)

    def watch():
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
