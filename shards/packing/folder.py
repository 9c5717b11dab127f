"""The folder that a dataset is packed into: who may write there, what decides its bytes, and its finished shards."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version

import cv2
import numpy as np

from shards.dataset.description import DATASET, FORMAT, parse_description
from shards.errors import UserError
from shards.packing.job import PackJob
from shards.packing.make_shard import WORK, record_path
from shards.packing.options import Part
from shards.packing.plan import Plan
from shards.packing.publishable import check_publishable
from shards.releases.checksums import CHECKSUMS
from shards.releases.release import Release
from shards.storage.files import check_inside, json_bytes
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.sealed import check_kinds, parse_json

AT_A_TIME = 256  # records that are read together
# decides which images are rejected, and no byte of another: a rejected link is looked at again
_MAY_CHANGE = {"allow_links"}
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


def refuse_difference(out: Location, found: dict, wanted: dict, finished: bool = False) -> None:
    """Raises UserError naming the first thing in which `out` was packed otherwise, and how to go on.

    finished: of a finished dataset sizes can be added, and versions matter only if something is made.
    """
    for group, values in wanted.items():
        for name in sorted({*values, *found[group]} - _MAY_CHANGE):
            before, now = found[group].get(name), values.get(name)
            # labels that only later versions read of a table of images, which is the same
            known = found[group].get(name.rpartition("/")[2]) if before is None and group == "inputs" else before
            if now == known or (finished and (name == "sizes" or group == "encoders")):
                continue
            fix = _fix(out, name, {**found[group], **values}, finished)
            if group == "inputs":
                fix = "give its folder with --labels again" if finished and now is None and "/" in name else fix
                before, now = (value[:12] if value else "not given" for value in (before, now))
            raise UserError(
                f"{out}: was packed with another {_WORDS[group]} {name!r}: {before} there, {now} now; {fix}"
            )


def _fix(out: Location, name: str, names: Iterable[str], finished: bool) -> str:
    """How to go on if the option, table or version `name` is another one; names: of its group."""
    again = "give the same again, or another --out folder"
    label, _, file = name.rpartition("/")
    whole_table = next((each.rpartition("/")[0] for each in names if each.endswith(f"/{name}")), None)
    if label and file in names:  # a table that has both images and labels comes first under its own name
        label = ""
    if name == "sizes":
        return "give the same again to finish it, and then others; or another --out folder"
    if not (label or whole_table or name in ("--findings", "--split-column")):
        return again
    if not finished:
        return "give the same again to finish it, and then other labels by `cxrdali label`; or another --out folder"
    if label:
        return (
            f"labels need no packing: `cxrdali label {out} --labels DIR` attaches them (of the same name, first "
            f"`cxrdali label {out} --remove {label}`)"
        )
    return (
        f"findings and splits need no packing: `cxrdali label {out} --remove NAME`, then `cxrdali label {out} --table "
        "FILE ...`; other images need another --out folder"
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
    found = work.lstat()
    if not local and (found.st_uid != os.getuid() or found.st_mode & 0o022):  # in a folder that all may write to
        raise UserError(f"{work}: belongs to another user, or others may write to it; set TMPDIR to a folder of yours")
    check_inside(work.parent, work, work / "tmp")
    strangers = sorted(entry.name for entry in job.storage.entries() if entry.name != WORK)
    if strangers and DATASET not in strangers and not storage_of(out / WORK / "options.json").exists():
        with contextlib.suppress(OSError):  # of a bucket's, a killed run may have left something in it
            work.rmdir()
        raise UserError(f"{out}: holds {strangers[0]!r}, which is no packed dataset; give an empty folder")


def claim(job: PackJob, identity: dict) -> None:
    """Say what the folder is packed with, and remove what killed runs left, unless other parts may be at work."""
    check_publishable(job, identity)
    options = storage_of(job.out / WORK / "options.json")
    before = _begun(job, options.read_bytes(), identity) if options.exists() else None
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


def _begun(job: PackJob, data: bytes, identity: dict) -> dict:
    """What an unfinished packing was begun with. Raises UserError if packing did not write it."""
    try:
        found = parse_json(data)
        check_kinds(found, dict.fromkeys(identity, dict))
    except ValueError as error:
        where = job.out / WORK / "options.json"
        raise UserError(f"{where}: not as packing writes it ({error}); pack to another --out folder") from error
    return found


def described(out: Location) -> dict:
    """The description of a finished dataset, whose shards may have been lost. Raises UserError if it is not whole."""
    path = out / DATASET
    info, sealed = parse_description(path, storage_of(path).read_bytes())
    if not sealed or info.get("format") != FORMAT:
        raise UserError(f"{path}: damaged, or of another version of cxrdali; restore it, or delete it and pack again")
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


def missing_shards(job: PackJob, planned: Plan, wanted: Sequence[int] | None = None) -> dict[int, tuple[int, int]]:
    """Per shard to be made, its first row of the plan and the one after its last. wanted: all of the job's without."""
    for size in job.options.sizes:
        storage_of(job.out / size.folder).make_folder()
    done, mine = recorded(job.out), (job.part or Part(1, 1)).of(planned.shards) if wanted is None else wanted
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
