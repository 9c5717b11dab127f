"""The folder that a dataset is packed into: who may write there, what is there already."""

import contextlib
import json
import os
import shutil

from shards.dataset.description import DATASET, FORMAT, parse_description
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.identity import refuse_difference
from shards.packing.job import PackJob
from shards.packing.make_shard import WORK, record_path
from shards.packing.summary import PackSummary
from shards.storage.files import json_bytes
from shards.storage.location import Location
from shards.storage.places import storage_of


def check_out(job: PackJob) -> None:
    """Raises UserError if nothing can be packed there, or if it lies in the release."""
    job.storage.check_writable()
    if storage_of(job.release.root).contains(job.out):
        raise UserError(
            f"{job.out}: lies in the release, which is only read; give an --out folder outside {job.release.root}"
        )


def make_folders(job: PackJob) -> None:
    """Make the folder, with that for unfinished files. Raises UserError if it holds what is no packed dataset."""
    out, work, local = job.out, job.work, job.storage.local
    try:
        work.mkdir(0o777 if local else 0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{out if local else work}: is no folder; give another --out") from error
    if not local and work.lstat().st_uid != os.getuid():  # in a folder that all users may write to
        raise UserError(f"{work}: belongs to another user; set TMPDIR to a folder of yours")
    strangers = sorted(entry.name for entry in job.storage.entries() if entry.name != WORK)
    if strangers and DATASET not in strangers and not storage_of(out / WORK / "options.json").exists():
        with contextlib.suppress(OSError):  # of a bucket's, a killed run may have left something in it
            work.rmdir()
        raise UserError(f"{out}: holds {strangers[0]!r}, which is no packed dataset; give an empty folder")


def claim(job: PackJob, identity: dict) -> None:
    """Say what the folder is packed with, and remove what killed runs left, unless other parts may be at work."""
    options = storage_of(job.out / WORK / "options.json")
    before = json.loads(options.read_bytes()) if options.exists() else None
    if before is not None:
        refuse_difference(job.out, before, identity)
    if before != identity:
        options.write_bytes(json_bytes(identity))
    if job.part is None:
        shutil.rmtree(job.work / "tmp", ignore_errors=True)
        for folder in (job.out, job.out / WORK):
            storage_of(folder).remove_parts()
    storage_of(record_path(job.out, 0).parent).make_folder()
    (job.work / "tmp").mkdir(exist_ok=True)


def finished(job: PackJob, identity: dict) -> PackSummary:
    """The summary of a dataset that is published. Raises UserError if it is not whole, or was packed otherwise."""
    # both refuse a damaged description, a missing or cut shard
    info = PackedDataset.open(job.out).info if job.storage.local else _stored_whole(job.out)
    refuse_difference(job.out, info, identity)
    for name in info["sizes"]:
        if job.storage.local and not storage_of(job.out / name).has_folder():
            raise UserError(f"{job.out / name}: the folder is missing; restore it, or delete {job.out} and pack again")
    remove_work(job)  # left by a kill between publication and clean-up
    return PackSummary.of(info, already_finished=True)


def _stored_whole(out: Location) -> dict:
    """The description of a finished dataset in a bucket, with one listing per size instead of a copy of anything."""
    path = out / DATASET
    info, sealed = parse_description(path, storage_of(path).read_bytes())
    if not sealed or info.get("format") != FORMAT:
        raise UserError(f"{path}: damaged, or of another version of cxrdali; delete it and pack again")
    for name, size in info["sizes"].items():
        found = {f"{name}/{entry.name}": entry.num_bytes() for entry in storage_of(out / name).entries()}
        for shard in size["shards"]:
            held = found.get(shard["name"])
            if held != shard["bytes"]:
                what = "is missing" if held is None else f"has {held} bytes"
                raise UserError(
                    f"{out / shard['name']}: {what}, {DATASET} says {shard['bytes']}; put it there again, or delete "
                    f"{path} and pack again"
                )
    return info


def remove_work(job: PackJob) -> None:
    """The dataset is published: what cannot be removed must not make an error of it."""
    storage_of(job.out / WORK).remove_tree()
