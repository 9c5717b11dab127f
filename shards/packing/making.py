"""Shards made by an engine, and what came of them judged: of a dataset that is packed, and of one that is changed."""

import contextlib
import ctypes
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from shards.errors import UserError
from shards.packing.engine import Engine, Tasks, Work
from shards.packing.job import PackJob
from shards.packing.plan import Plan
from shards.packing.tasks import shard_tasks
from shards.storage.location import Location
from shards.storage.places import storage_of


def make_shards(
    job: PackJob,
    planned: Plan,
    engine: Engine,
    spans: dict[int, tuple[int, int]],
    fitted: Callable[[Tasks], Tasks] = iter,
) -> int:
    """Make shards; returns the images read.

    spans: per shard its first row of the plan and the one after its last; fitted: what changes the tasks on their way.
    """
    # a folder of this run's own: what a killed run's workers still do, they do in a folder that is gone
    tmp = Path(tempfile.mkdtemp(dir=job.work / "tmp"))
    work = Work(job.release.root, job.out, tmp, planned, spans, job.limits.stall)
    tasks = fitted(shard_tasks(job, planned, spans, tmp))
    _give_back()
    try:
        engine.make(tasks, work)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)  # the next run does not, if it is a part's
    return work.images


def _give_back() -> None:
    """Return to the system what reading the tables has left free: more than the tables take, for hours of packing."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def judge(
    job: PackJob, planned: int, rejected: Mapping[str, int], listing: Location, data: bytes | None = None
) -> None:
    """Once, when all images are read: one bad image more or less must not depend on when it came.

    rejected: images by reason; listing: where they are listed, which is written first if `data` is given.
    """
    count, allowed = sum(rejected.values()), job.limits.max_reject_fraction
    if count <= allowed * planned:
        return
    if data is not None:
        storage_of(listing).write_bytes(data)
    reasons = ", ".join(f"{images:,} {reason}" for reason, images in Counter(rejected).most_common())
    raise UserError(
        f"{job.out}: {count:,} of {planned:,} images ({count / planned:.2%}) were rejected, more "
        f"than --max-reject-fraction {allowed:g} allows: {reasons} (listed in {listing}); repair them and run the same "
        "command again, which reads only the shards of repaired files, or raise the fraction"
    )
