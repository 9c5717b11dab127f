"""From a release to a packed dataset: plan, independent shard tasks, one publication.

Working state lives in PACK/.packing and is removed at publication: options.json (what the folder is being
packed with), records/NNNNNN.json (one finished shard each), tmp/ (files being written), lock, claim (held for the
moment of looking at options.json, as several parts may be packed at once). Of a PACK in a bucket, tmp/, lock and claim
are in a folder of this machine (`PackJob.work`).
A shard is finished when its record exists; the record is written after the shard's files have their final
names, so a rerun redoes whatever lacks a record, to the same bytes, and the shards of which a rejected file has
changed since. dataset.json is written last of all.
"""

import contextlib
import shutil
import time
from collections import Counter

from shards.dataset.description import DATASET
from shards.errors import UserError
from shards.packing import folder
from shards.packing.change import finished
from shards.packing.engine import Engine, Local
from shards.packing.job import PackJob, PackSummary, PartSummary, checked_plan
from shards.packing.make_shard import WORK
from shards.packing.making import judge, make_shards
from shards.packing.options import PackLimits, PackOptions
from shards.packing.publish import REJECTS, publish, rejects_csv, with_arrays
from shards.releases.release import Release
from shards.renditions.source import kind_of
from shards.storage.files import cannot_write, one_by_one, only_one
from shards.storage.location import Location
from shards.storage.places import storage_of


def pack(
    release: Release, out: Location, options: PackOptions, jobs: int = 1, limits: PackLimits | None = None
) -> PackSummary:
    """Make or finish the whole packed dataset in `out` by `jobs` processes of this machine (`pack_job`)."""
    summary = pack_job(PackJob(release, out, options, limits or PackLimits()), Local(jobs))
    assert isinstance(summary, PackSummary)
    return summary


def pack_job(job: PackJob, engine: Engine) -> PackSummary | PartSummary:
    """Make or finish a packed dataset, or a part of it; of a finished one, what it lacks (`shards.packing.change`).

    Args:
        engine: who makes the shards, processes of this machine or a cluster (`shards.packing.cluster.Dask`).

    Returns:
        What was done; of a part, a PartSummary.

    Raises:
        UserError: `out` was packed with other options, inputs or encoder versions (the differing one is named),
            another process is packing it, a subject is in two splits, a path leaves the release, a worker dies or
            stalls, there is no room, or more images were rejected than the limits allow. Of a finished dataset, what
            `shards.packing.change.finished` says.
    """
    folder.check_out(job)
    identity, published = folder.identity_of(job), storage_of(job.out / DATASET)
    summary = None if published.exists() else _pack_anew(job, identity, engine)
    return finished(job, identity, engine) if summary is None else summary


def _pack_anew(job: PackJob, identity: dict, engine: Engine) -> PackSummary | PartSummary | None:
    """None if another process has published the dataset meanwhile."""
    planned, local = checked_plan(job.release, job.options, job.limits), job.storage.local
    published = storage_of(job.out / DATASET)
    try:
        folder.make_folders(job)
        with contextlib.ExitStack() as stack:
            words = "packing into it" if local else f"packing into {job.out}"
            stack.enter_context(only_one(job.work / "lock", words, shared=job.part is not None))
            if not local and job.part is None:
                # nothing of a dataset in a bucket stays on this machine; parts do not know whether others are at work
                stack.callback(shutil.rmtree, job.work, ignore_errors=True)
            if published.exists():  # by the process that held the lock a moment ago
                return None
            with one_by_one(job.work / "claim"):
                folder.claim(job, identity)
            started = time.perf_counter()
            made = make_shards(job, planned, engine, folder.missing_shards(job, planned))
            if job.part:
                seconds = time.perf_counter() - started
                return PartSummary(job.part, len(folder.recorded(job.out)), planned.shards, made, seconds)
            if not local and published.exists():  # by a packer on another machine, whose lock is not ours
                return None
            rows = planned.rows()
            records = [with_arrays(record) for record in folder.read_records(job.out, range(planned.shards))]
            rejects = [reject for record in records for reject in record["rejects"]]
            kinds = Counter(kind_of(reason) for _, reason, _ in rejects)
            judge(job, len(rows), kinds, job.out / WORK / REJECTS, rejects_csv(rows, rejects))
            info = publish(job, rows, records, identity)
            folder.remove_work(job)
    except OSError as error:
        # a worker's too; it names a file of this run's own, users know the dataset
        if not local:
            raise UserError(f"{cannot_write(job.work, error)}; TMPDIR names the folder of temporary files") from error
        raise cannot_write(job.out, error) from error
    return PackSummary.of(info, images_this_run=made, seconds=time.perf_counter() - started)
