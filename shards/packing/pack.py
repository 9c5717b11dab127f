"""From a release to a packed dataset: plan, independent shard tasks, one publication.

Working state lives in PACK/.packing and is removed at publication: options.json (what the folder is being
packed with), records/NNNNNN.json (one finished shard each), tmp/ (files being written), lock, claim (held for the
moment of looking at options.json, as several parts may be packed at once). Of a PACK in a bucket, tmp/, lock and claim
are in a folder of this machine (`work_folder`).
A shard is finished when its record exists; the record is written after the shard's files have their final
names, so a rerun redoes whatever lacks a record, to the same bytes, and the shards of which a rejected file has
changed since. dataset.json is written last of all.
"""

import contextlib
import ctypes
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from shards.dataset.description import DATASET
from shards.dataset.key import sample_key
from shards.errors import UserError
from shards.packing.engine import Engine, Local, Work
from shards.packing.findings import findings_of
from shards.packing.folder import (
    _check_writable,
    _claim,
    _finished,
    _identity,
    _lies_in,
    _make_folder,
    _remove_work,
    _removed_at_the_end,
    _summary,
    work_folder,
)
from shards.packing.make_shard import WORK, PlannedImage, ShardTask
from shards.packing.options import PackLimits, PackOptions, PackSummary, Part, PartSummary
from shards.packing.plan import Plan, plan
from shards.packing.publish import publish, rejects_csv, with_arrays
from shards.packing.records import _held, _is_made, _recorded, _records
from shards.packing.source import kind_of
from shards.releases import checksums
from shards.releases.checks import check_links, check_subjects
from shards.releases.release import Release
from shards.storage.files import (
    cannot_write,
    make_folder,
    one_by_one,
    only_one,
    write_bytes,
)
from shards.storage.remote import is_remote, is_there


def pack(
    release: Release,
    out: Path,
    options: PackOptions,
    jobs: int = 1,
    limits: PackLimits | None = None,
    engine: Engine | None = None,
    part: Part | None = None,
) -> PackSummary | PartSummary:
    """Make or finish the packed dataset in `out`; on a finished one, do nothing.

    engine: who makes the shards, instead of `jobs` processes of this machine (`shards.packing.cluster.Dask`); part:
    make only the shards of one part, beside other processes that make other parts, and publish nothing.

    Raises UserError if `out` was packed with other options, inputs or encoder versions (the differing one is
    named), if another process is packing it, if a subject is in two splits, a path leaves the release, a worker
    dies or stalls, there is no room, or more images were rejected than `limits` allow.
    """
    limits = limits or PackLimits()
    _check_writable(out)
    if _lies_in(out, release.root):
        raise UserError(f"{out}: lies in the release, which is only read; give an --out folder outside {release.root}")
    identity = _identity(release, options)
    if is_there(out / DATASET):
        return _finished(out, identity)
    planned, work = _planned(release, options, limits), work_folder(out)
    try:
        _make_folder(out, work)
        words = f"packing into {out}" if is_remote(out) else "packing into it"
        # nothing of a dataset in a bucket stays on this machine; parts do not know whether others are at work
        passing = is_remote(out) and part is None
        with only_one(work / "lock", words, shared=part is not None), _removed_at_the_end(work, passing):
            if is_there(out / DATASET):  # published by the process that held the lock a moment ago
                return _finished(out, identity)
            with one_by_one(work / "claim"):
                _claim(out, work, identity, alone=part is None)
            started = time.perf_counter()
            made = _make_missing(
                *(release, out, work, options, limits, planned, engine or Local(jobs), part or Part(1, 1))
            )
            if part:
                return PartSummary(part, len(_recorded(out)), planned.shards, made, time.perf_counter() - started)
            if is_remote(out) and is_there(out / DATASET):  # by a packer on another machine, whose lock is not ours
                return _finished(out, identity)
            rows = planned.rows()
            records = [with_arrays(record) for record in _records(out, range(planned.shards))]
            _judge(out, rows, records, limits)
            info = publish(release, out, options, rows, records, identity)
            _remove_work(out)
    except OSError as error:
        # a worker's too; it names a file of this run's own, users know the dataset
        if is_remote(out):
            raise UserError(f"{cannot_write(work, error)}; TMPDIR names the folder of temporary files") from error
        raise cannot_write(out, error) from error
    return PackSummary(**_summary(info), images_this_run=made, seconds=time.perf_counter() - started)


def _planned(release: Release, options: PackOptions, limits: PackLimits) -> Plan:
    """Every check that needs no image, then the plan, with the published hashes if they are to be checked."""
    if not options.allow_links:
        check_links(release)
    if not limits.allow_subject_overlap:
        for table in release.labels:
            check_subjects(table, release.images)
    images = release.images
    if options.check_hashes:
        images = images.assign(sha256=checksums.of_images(release))
    return plan(images, options.shard_images, options.seed, options.limit)


def _inside(release: Release, options: PackOptions) -> str | None:
    return None if options.allow_links or is_remote(release.root) else os.path.realpath(release.root)


def _judge(out: Path, rows: pd.DataFrame, records: list[dict], limits: PackLimits) -> None:
    """Once, when all images are read: one bad image more or less must not depend on when it came."""
    rejects = [reject for record in records for reject in record["rejects"]]
    if len(rejects) <= limits.max_reject_fraction * len(rows):
        return
    listing = out / WORK / "rejects.csv"
    write_bytes(listing, rejects_csv(rows, rejects))
    counts = Counter(kind_of(reason) for _, reason, _ in rejects).most_common()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts)
    raise UserError(
        f"{out}: {len(rejects):,} of {len(rows):,} images ({len(rejects) / len(rows):.2%}) were rejected, more than "
        f"--max-reject-fraction {limits.max_reject_fraction:g} allows: {reasons} (listed in {listing}); repair them "
        "and run the same command again, which reads only the shards of repaired files, or raise the fraction"
    )


# ---------------------------------------------------------------- the folder


# ---------------------------------------------------------------- shards


def _make_missing(
    release: Release,
    out: Path,
    work: Path,
    options: PackOptions,
    limits: PackLimits,
    planned: Plan,
    engine: Engine,
    part: Part,
) -> int:
    """Make every shard of the part that has no record, or one to be looked at again; returns the images read."""
    for size in options.sizes:
        make_folder(out / size.folder)
    recorded, mine = _recorded(out), part.of(planned.shards)
    held = {size.folder: _held(out / size.folder) for size in options.sizes}
    records = _records(out, [shard for shard in mine if shard in recorded])
    made = {record["shard"] for record in records if _is_made(release, record, planned, held)}
    missing = [shard for shard in mine if shard not in made]
    bounds = np.searchsorted(planned.shard, [*missing, *(s + 1 for s in missing)]).reshape(2, -1)
    spans = {shard: (start, stop) for shard, start, stop in zip(missing, *bounds.tolist(), strict=True)}
    # a folder of this run's own: what a killed run's workers still do, they do in a folder that is gone
    tmp = Path(tempfile.mkdtemp(dir=work / "tmp"))
    inside, parent = _inside(release, options), os.getpid()
    names = planned.images["image_id"].iloc[planned.order]
    places = [table.places(names) for table in release.labels]
    places = np.array(places, dtype=np.int64).reshape(len(places), len(names))
    tasks = (
        (
            ShardTask(
                *(release.root, inside, out, tmp, options.sizes, options.fit, options.quality, options.window),
                *(shard, parent),
            ),
            _planned_images(planned.rows(start, stop), findings_of(release.labels, places[:, start:stop])),
        )
        for shard, (start, stop) in spans.items()
    )

    missing = Work(release.root, out, tmp, planned, spans, limits.stall)
    _give_back()
    try:
        engine.make(tasks, missing)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)  # the next run does not, if it is a part's
    return missing.images


def _give_back() -> None:
    """Return to the system what reading the tables has left free: more than the tables take, for hours of packing."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _planned_images(rows: pd.DataFrame, findings: list[dict[str, dict]]) -> list[PlannedImage]:
    """What a worker has to know of some rows of the plan."""
    lists = {name: rows[name].tolist() for name in rows}
    for name, constant in (("sha256", None), ("inverted", False)):
        # columns only if hashes are to be checked, and if the release tells MONOCHROME1
        lists.setdefault(name, [constant] * len(rows))
    names = zip(lists["subject_id"], lists["study_id"], lists["image_id"], strict=True)
    lists |= {"key": [sample_key(*each) for each in names], "findings": findings}
    return [PlannedImage(*values) for values in zip(*(lists[name] for name in PlannedImage._fields), strict=True)]
