"""What a finished dataset lacks: rejected images that can be read now, sizes that are asked for, sizes that were lost.

Everything new is made in PACK/.changing, as packing makes it: shards, then tables. One dataset.json publishes it: its
entry "staged" names the files that still lie there, and readers look for them there first. Then each file gets its own
name, and a dataset.json without the entry ends the change. A kill leaves the old dataset or the new one, and the same
command goes on. A size is dropped the other way round: dataset.json calls its files "dropped" before they go.
"""

import contextlib
import csv
import io
import logging
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from shards.dataset.description import ASIDE, DATASET, decoded_for, with_id_of, write_description
from shards.dataset.tables import checked_bytes
from shards.errors import UserError
from shards.packing import folder
from shards.packing.engine import Engine
from shards.packing.job import PackJob, PackSummary
from shards.packing.make_shard import WORK
from shards.packing.making import judge
from shards.packing.publish import CATALOG, REJECTS
from shards.packing.remake import Change, remade
from shards.packing.tarshard import index_name
from shards.renditions.options import Size
from shards.storage.files import cannot_write, check_inside, only_one, publish, remove_parts
from shards.storage.for_people import unguarded
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.sealed import parse_json
from shards.words import counted

log = logging.getLogger(__name__)
AT_ONCE = 32  # files asked for at a time: each is a round trip to a bucket


def finished(job: PackJob, identity: dict, engine: Engine) -> PackSummary:
    """Of a finished dataset, make what it lacks: the sizes of `job` that it has not or has lost, and the shards of
    rejected images that can be read now. Packed images are not looked at again.

    Raises UserError if it was packed with other options or inputs, if more images are rejected than this call allows,
    or if something is to be made and cannot be: a packed image is gone or changed, the encoders have other versions,
    a size is stored in the other encoding, the dataset is in a bucket. It is then as it was.
    """
    started = time.perf_counter()
    change = _change(job, identity)
    asked = {size.folder for size in job.options.sizes}
    if others := [name for name in change.info["sizes"] if name not in asked]:
        log.info("%s: sizes that are not asked for stay as they are: %s", job.out, ", ".join(sorted(others, key=int)))
    if not change.needed:
        counts = change.info["counts"]
        judge(job, counts["planned"], counts["rejected"], job.out / REJECTS)
        _clean_up(job)
        return PackSummary.of(change.info, already_finished=True)
    _check_possible(change, identity)
    assert isinstance(job.out, Path)
    with _changing(job.out):
        _settle(job.out)  # another process may have had the lock until now
        change = _change(job, identity)
        info, images = remade(change, engine) if change.needed else (change.info, 0)
        _settle(job.out)
    return PackSummary.of(info, images_this_run=images, seconds=time.perf_counter() - started)


def drop_sizes(out: Location, names: Sequence[str]) -> None:
    """Remove stored sizes from a finished dataset: dataset.json first, then the files that it listed.

    Raises UserError for a size that is not stored, for the last one, and for a dataset in a bucket.
    """
    if not isinstance(out, Path):
        raise UserError(f"{out}: sizes are dropped from a dataset on this machine; copy it here")
    if not (out / DATASET).exists():
        raise UserError(f"{out}: no finished packed dataset, so there is no size to drop")
    with _changing(out):
        _settle(out)
        info = folder.described(out)
        for name in names:
            if name not in info["sizes"]:
                raise UserError(f"{out}: no size {name!r} to drop; stored are {', '.join(info['sizes'])}")
        check_inside(out, *(out / name for name in names))
        kept = {name: size for name, size in info["sizes"].items() if name not in names}
        if not kept:
            raise UserError(f"{out}: {', '.join(names)} would be the last to go; a dataset has at least one size")
        for name, covered in decoded_for(info).items():  # of datasets from before, the largest size would tell
            info["sizes"][name]["decoded_for"] = covered
        gone = [shard["name"] for name in names for shard in info["sizes"][name]["shards"]]
        dropped = sorted(each for name in gone for each in (name, index_name(name)))
        options = {**info["options"], "sizes": [size.text for size in _stored(info) if size.folder in kept]}
        write_description(out, with_id_of(info, {**info, "sizes": kept, "options": options, "dropped": dropped}))
        _settle(out)


def _change(job: PackJob, identity: dict) -> Change:
    """What a finished dataset lacks of this job. What a killed change has published gets its own names first."""
    info = folder.described(job.out)
    if "staged" in info or "dropped" in info:
        assert isinstance(job.out, Path)
        with _changing(job.out):
            _settle(job.out)
        return _change(job, identity)
    stored = {size.folder: size for size in _stored(info)}
    for size in job.options.sizes:
        if (known := stored.get(size.folder, size)) != size:
            raise UserError(
                f"{job.out}: size {known.pixels} is stored as {known.encoding}, not as {size.encoding}; give --sizes "
                f"{known.text}, or drop it first (cxrdali shard --out {job.out} --drop-size {size.folder}; not the "
                "last one), or pack to another --out folder"
            )
    folder.refuse_difference(job.out, info, identity, finished=True)
    asked = {size.folder: size for size in job.options.sizes}
    lost = {name: _lost(job.out, name, info["sizes"][name]["shards"]) for name in stored}
    rejects = _rejects(job.out, info)
    sizes = {**stored, **asked}.values()
    return Change(
        job=replace(job, options=replace(job.options, sizes=tuple(sizes))),
        info=info,
        added=tuple(size for name, size in asked.items() if name not in stored),
        lost={name: shards for name, shards in lost.items() if shards and name in asked},
        elsewhere=tuple(name for name, shards in lost.items() if shards and name not in asked),
        rejects=rejects,
        doubtful=_doubtful(job, info, rejects),
    )


def _check_possible(change: Change, identity: dict) -> None:
    """Raises UserError if nothing can be made here, whatever it is."""
    job, info = change.job, change.info
    words = [f"size {size.folder} is to be added" for size in change.added]
    words += [f"size {name} has lost {counted(len(shards), 'shard')}" for name, shards in change.lost.items()]
    if change.doubtful:
        words.append(
            f"rejected files that are there now, have changed, or may be read another time: {len(change.doubtful):,}"
        )
    if not isinstance(job.out, Path):
        for name, shards in change.lost.items():
            path = job.out / name / f"{min(shards):06d}.tar"
            raise UserError(f"{path}: is missing or cut, or its index is missing; put it there again from a copy")
        raise UserError(
            f"{job.out}: {words[0]}, but a dataset in a bucket is not changed; copy it here, give the same command "
            "with the copy, and copy the result back"
        )
    if job.part:
        raise UserError(f"{job.out}: {words[0]}; a finished dataset is changed by one process: leave --part out")
    before, now = info["encoders"], identity["encoders"]
    for name in now:
        if before.get(name) != now[name]:
            package = {"opencv": "opencv-python-headless"}.get(name, name)
            raise UserError(
                f"{job.out}: {words[0]}, but {name} is {now[name]} here, was {before.get(name)} at packing, and other "
                f"versions make other bytes; pip install {package}=={before.get(name)}, or pack to another --out folder"
            )
    made = [size.folder for size in (job.options.sizes if change.doubtful else change.added)]
    check_inside(job.out, *(job.out / name for name in (*made, *change.lost)))
    for line in words:
        log.info("%s: %s", job.out, line)


def _stored(info: dict) -> list[Size]:
    """The sizes of a dataset, in the order in which they were given."""
    sizes = {name: Size(each["pixels"], each["encoding"] == "raw") for name, each in info["sizes"].items()}
    given = [str(text).partition(":")[0] for text in info["options"].get("sizes") or ()]
    return [sizes[name] for name in dict.fromkeys([*given, *sorted(sizes, key=int)]) if name in sizes]


def stored_sizes(out: Location) -> tuple[Size, ...]:
    """Those of a finished dataset; none if it is not finished."""
    return tuple(_stored(folder.described(out))) if storage_of(out / DATASET).exists() else ()


def _lost(out: Location, name: str, shards: list[dict]) -> set[int]:
    """The shards of a size that are not there as dataset.json says, by length."""
    storage = storage_of(out / name)
    held = {each.name: each.num_bytes() for each in storage.entries()} if storage.has_folder() else {}
    files = [(Path(shard["name"]).name, shard["bytes"]) for shard in shards]
    return {int(Path(file).stem) for file, size in files if held.get(file) != size or index_name(file) not in held}


def _rejects(out: Location, info: dict) -> dict[int, list]:
    """rejects.csv by row: [row, reason, fingerprint]. Where a version did not write fingerprints, that of a file that
    was there is [], which no file has."""
    data = checked_bytes(out / REJECTS, info["rejects_sha256"])
    found: dict[int, list] = {}
    try:
        for line in csv.DictReader(io.StringIO(data.decode(), newline="")):
            row, reason = int(line["row"]), unguarded(line["reason"])
            unknown: list | None = None if reason == "absent" or "fingerprint" in line else []
            if not 0 <= row < info["counts"]["planned"]:
                raise ValueError(f"row {row}")
            found[row] = [row, reason, parse_json(line["fingerprint"]) if line.get("fingerprint") else unknown]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{out / REJECTS}: not as packing writes it ({error}); restore it or pack again") from error
    return found


def _doubtful(job: PackJob, info: dict, rejects: dict[int, list]) -> tuple[int, ...]:
    """The rejects whose files are not as they were when they were looked at, or may not be."""
    if not rejects:
        return ()
    catalog = pd.read_parquet(
        pa.BufferReader(checked_bytes(job.out / CATALOG, info["catalog_sha256"])), columns=["image_id"]
    )
    paths = job.release.images.set_index("image_id")["path"].reindex(catalog["image_id"]).to_numpy()

    def fingerprint(row: int) -> list | None:
        return storage_of(job.release.root / paths[row]).fingerprint()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        now = zip(rejects, threads.map(fingerprint, rejects), strict=True)
        differs = [row for row, seen in now if seen != rejects[row][2]]
    if isinstance(job.out, Path):
        return tuple(differs)
    # nothing is packed again in a bucket: what may pass (a link, a bad sector) is no reason to refuse every call
    return tuple(row for row in differs if rejects[row][2] is not None or rejects[row][1] == "absent")


@contextlib.contextmanager
def _changing(out: Path) -> Iterator[None]:
    """While nobody else writes to a finished dataset; nothing is written or removed through a link."""
    work = out / WORK
    check_inside(out, work, out / ASIDE, *(out / ASIDE).rglob("*"))
    try:
        work.mkdir(exist_ok=True)
        with only_one(work / "lock", "packing into it"):
            try:
                remove_parts(out)
                yield
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise cannot_write(out, error) from error


def _settle(out: Path) -> None:
    """End a published change: its files get their own names, and those of dropped sizes go."""
    info = folder.described(out)
    shards = [shard["name"] for size in info["sizes"].values() for shard in size["shards"]]
    files = [CATALOG, REJECTS, *shards, *map(index_name, shards)]
    staged = sorted(set(info.get("staged", ())) & set(files))
    dropped = [name for name in info.get("dropped", ()) if re.fullmatch(r"[0-9]+/[0-9]{6,9}\.(tar|idx)", name)]
    check_inside(out, *(out / name.partition("/")[0] for name in (*staged, *dropped)))
    for name in staged:
        if (out / ASIDE / name).is_file():
            (out / name).parent.mkdir(exist_ok=True)
            publish(out / ASIDE / name, out / name)
    for name in dropped:
        if name not in files:
            (out / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is gone, or holds something else
                (out / name).parent.rmdir()
    if "staged" in info or "dropped" in info:
        write_description(out, {key: value for key, value in info.items() if key not in ("staged", "dropped")})
        shutil.rmtree(out / ASIDE, ignore_errors=True)


def _clean_up(job: PackJob) -> None:
    """Remove what a kill left of a packing or a change that has nothing left to do, unless somebody is at work."""
    if not isinstance(job.out, Path):
        folder.remove_work(job)
    elif (job.out / WORK).exists() or (job.out / ASIDE).exists():
        with contextlib.suppress(UserError), _changing(job.out):
            _settle(job.out)  # another process may have been at work until now
            shutil.rmtree(job.out / ASIDE, ignore_errors=True)
