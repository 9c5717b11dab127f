"""The folder that a dataset is packed into: who may write there, what decides its bytes, and its finished shards."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version

import cv2
import numpy as np

from shards.dataset.description import DATASET, FORMAT, parse_description
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.job import PackJob, PackSummary
from shards.packing.make_shard import WORK, record_path
from shards.packing.options import Part
from shards.packing.plan import Plan
from shards.releases.checksums import CHECKSUMS
from shards.releases.release import Release
from shards.storage.files import json_bytes
from shards.storage.location import Location
from shards.storage.places import storage_of

AT_A_TIME = 256  # records that are read together
_WORDS = {"options": "option", "inputs": "input table", "encoders": "encoder version"}


def identity_of(job: PackJob) -> dict:
    """Options, the sha256 of every input table, and the versions of the encoders."""
    release, options = job.release, {**job.options.as_json(), **job.release.reading}
    inputs = {path.name: path for path in release.inputs}
    inputs |= {f"{table.name}/{path.name}": path for table in release.labels for path in table.inputs}
    if job.options.check_hashes and storage_of(release.root / CHECKSUMS).exists():
        inputs[CHECKSUMS] = release.root / CHECKSUMS
    hashes = {name: storage_of(path).sha256() for name, path in inputs.items()}
    encoders = {"simplejpeg": version("simplejpeg"), "opencv": cv2.__version__}
    return {"options": options, "inputs": hashes, "encoders": encoders}


def refuse_difference(out: Location, found: dict, wanted: dict) -> None:
    """Raises UserError naming the first thing in which `out` was packed otherwise."""
    for group, values in wanted.items():
        for name in sorted({*values, *found[group]}):
            before, now = found[group].get(name), values.get(name)
            if before == now:
                continue
            if group == "inputs":
                before, now = (value[:12] if value else "not given" for value in (before, now))
            raise UserError(
                f"{out}: was packed with another {_WORDS[group]} {name!r}: {before} there, {now} now; "
                "give the same again, or another --out folder"
            )


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
        if local:  # ids and pixels of patients: a group may read them as the umask says, the world never
            out.mkdir(0o770, parents=True, exist_ok=True)
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


def recorded(out: Location) -> set[int]:
    """The finished shards, from one listing: a look at each record is a round trip where it lies in a bucket."""
    names = (entry.name for entry in storage_of(record_path(out, 0).parent).entries())
    return {int(name.removesuffix(".json")) for name in names if name[:1].isdigit()}


def read_records(out: Location, shards: Sequence[int]) -> Iterator[dict]:
    """The records of finished shards, in this order."""
    for start in range(0, len(shards), AT_A_TIME):
        paths = [record_path(out, shard) for shard in shards[start : start + AT_A_TIME]]
        yield from map(json.loads, storage_of(paths[0].parent).read_each([path.name for path in paths]))


def missing_shards(job: PackJob, planned: Plan) -> dict[int, tuple[int, int]]:
    """Per shard to be made, its first row of the plan and the one after its last."""
    done, mine = recorded(job.out), (job.part or Part(1, 1)).of(planned.shards)
    files = {size.folder: _held(job.out / size.folder) for size in job.options.sizes}
    records = read_records(job.out, [shard for shard in mine if shard in done])
    made = {record["shard"] for record in records if _is_made(job.release, record, planned, files)}
    missing = [shard for shard in mine if shard not in made]
    bounds = np.searchsorted(planned.shard, [*missing, *(shard + 1 for shard in missing)]).reshape(2, -1)
    return {shard: (start, stop) for shard, start, stop in zip(missing, *bounds.tolist(), strict=True)}


def _held(folder: Location) -> dict[str, int]:
    """Finished files of a size's folder and their bytes."""
    return {entry.name: entry.num_bytes() for entry in storage_of(folder).entries() if entry.name[:1].isdigit()}


def _is_made(release: Release, record: dict, planned: Plan, held: dict[str, dict[str, int]]) -> bool:
    """Whether a finished shard is there in all sizes, and the files that it rejected are still as they were."""
    name = f"{record['shard']:06d}"
    for folder, size in record["sizes"].items():
        there = held[folder].get(f"{name}.tar"), f"{name}.idx" in held[folder]
        if size["samples"] and there != (size["bytes"], True):
            return False
    rejects = ((release.root / planned.path(row), seen) for row, _, seen in record["rejects"])
    return all(storage_of(path).fingerprint() == seen for path, seen in rejects)
