"""Shards of a finished dataset made again or in further sizes, and checked against what is there."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from shards.dataset.description import ASIDE, DATASET, decoded_for, with_id_of, write_description
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing import folder
from shards.packing.engine import Engine, Tasks
from shards.packing.job import PackJob, checked_plan
from shards.packing.make_shard import record_path
from shards.packing.making import judge, make_shards
from shards.packing.plan import Plan
from shards.packing.publish import CATALOG, REJECTS, describe, with_arrays
from shards.renditions.options import Size
from shards.storage.files import json_bytes, sha256_bytes, write_bytes
from shards.words import are


@dataclass(frozen=True)
class Change:
    """What a finished dataset lacks.

    job: its sizes are those of the dataset, then those to be added; info: dataset.json; lost: by size the shards that
    are not whole; elsewhere: sizes that are not whole and not asked for; rejects: by row [row, reason, fingerprint of
    the file then], as in a shard's record; doubtful: the rows of those whose file may be another by now.
    """

    job: PackJob
    info: dict
    added: tuple[Size, ...]
    lost: dict[str, set[int]]
    elsewhere: tuple[str, ...]
    rejects: dict[int, list]
    doubtful: tuple[int, ...]

    @property
    def out(self) -> Path:
        """The dataset's folder: nothing is changed in a bucket."""
        assert isinstance(self.job.out, Path)
        return self.job.out

    @property
    def needed(self) -> bool:
        return bool(self.added or self.lost or self.doubtful)


def remade(change: Change, engine: Engine) -> tuple[dict, int]:
    """Make what is lacking and publish it, still aside (`shards.packing.change`).

    Returns the new description and the number of images that were read. Raises UserError if a packed image is gone or
    another one, or if more are rejected than the limits allow; the dataset is as it was.
    """
    job, info, out = change.job, change.info, change.out
    catalog = PackedDataset(out, info).catalog
    planned = checked_plan(job.release, job.options, job.limits)
    rows = planned.rows()
    if rows["image_id"].tolist() != catalog["image_id"].tolist():
        raise UserError(f"{out}: its rows are not those that are planned now; pack to another --out folder")
    rejects, readable = _looked_at(change, planned, engine)
    again = {int(planned.shard[row]) for row in readable}
    if again and change.elsewhere:
        raise UserError(
            f"{out}: {are(len(again), 'shard')} to be packed again in every size, but {change.elsewhere[0]} is not "
            f"whole here; put it there, or have it made again: --sizes ...,{change.elsewhere[0]}"
        )
    sizes = _sizes_to_make(change, planned.shards, again)
    aside = replace(job, out=out / ASIDE)
    _claim(aside, {"id": info["id"], "sizes": {shard: [size.folder for size in each] for shard, each in sizes.items()}})
    spans = folder.missing_shards(aside, planned, sorted(sizes))
    packed = catalog["shard"].notna().to_numpy()
    covers = {size.folder: max(each.pixels for each in job.options.sizes) for size in job.options.sizes}
    covers |= decoded_for(info)

    def fitted(tasks: Tasks) -> Tasks:
        """Of each shard the sizes that it lacks; without the rejects, unless one of them can be read now."""
        for task, images in tasks:
            made = sizes[task.shard]
            decoded = tuple(covers[size.folder] for size in made)
            kept = images if task.shard in again else [image for image in images if packed[image.row]]
            options = replace(task.options, sizes=made)
            hashed = info.get("hashed") or decoded[0]
            yield replace(task, options=options, decoded_for=decoded, hashed=hashed), kept

    images = make_shards(aside, planned, engine, spans, fitted)
    starts = np.searchsorted(planned.shard, np.arange(planned.shards + 1))
    records = {
        shard: _stored_record(info, catalog.iloc[start:stop], shard, rejects)
        for shard, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True))
    }
    made = zip(sorted(sizes), folder.read_records(aside.out, sorted(sizes)), strict=True)
    for shard, record in made:
        start, stop = starts[shard], starts[shard + 1]
        taken = np.ones(stop - start, bool) if shard in again else packed[start:stop]
        record = _spread(record, taken)
        try:
            _check_same(change, record, catalog.iloc[start:stop], planned, shard in again)
        except UserError:
            record_path(aside.out, shard).unlink()  # made again when its images are what they were
            raise
        record["sizes"] = {**records[shard]["sizes"], **record["sizes"]}
        records[shard] = record if shard in again else {**records[shard], "sizes": record["sizes"]}
    return _publish(change, rows, list(records.values()), sizes), images


def _looked_at(change: Change, planned: Plan, engine: Engine) -> tuple[dict[int, list], set[int]]:
    """The rejects by row, as they are now, and the rows that are rejects no more.

    The files are read for that alone first, lest a shard is packed again for one that is still bad.
    """
    rows = np.array(sorted(change.doubtful), dtype=np.int64)
    if not len(rows):
        return change.rejects, set()
    _, shard = np.unique(planned.shard[rows], return_inverse=True)
    few, look = Plan(planned.images, planned.order[rows], shard), change.out / ASIDE / "look"
    sizes = tuple(sorted(change.job.options.sizes, key=lambda size: size.pixels))
    job = replace(change.job, out=look, options=replace(change.job.options, sizes=sizes[:1]))

    def fitted(tasks: Tasks) -> Tasks:
        """Decoded as they will be: what is wrong with a file may show at one scale alone."""
        return ((replace(task, decoded_for=(sizes[-1].pixels,), hashed=sizes[-1].pixels), each) for task, each in tasks)

    shutil.rmtree(look, ignore_errors=True)
    _claim(job, {})
    make_shards(job, few, engine, folder.missing_shards(job, few), fitted)
    found = [reject for record in folder.read_records(look, range(few.shards)) for reject in record["rejects"]]
    shutil.rmtree(look, ignore_errors=True)
    still = {int(rows[place]): [int(rows[place]), reason, seen] for place, reason, seen in found}
    return change.rejects | still, set(rows.tolist()) - set(still)


def _sizes_to_make(change: Change, shards: int, again: set[int]) -> dict[int, tuple[Size, ...]]:
    """Per shard that lacks any, the sizes to make."""
    found = {}
    for shard in range(shards):
        lacking = {name for name, lost in change.lost.items() if shard in lost} | {each.folder for each in change.added}
        found[shard] = tuple(each for each in change.job.options.sizes if shard in again or each.folder in lacking)
    return {shard: sizes for shard, sizes in found.items() if sizes}


def _claim(job: PackJob, what: dict) -> None:
    """Go on with what a killed run has made of the very same, or begin anew."""
    said, data = job.work / "options.json", json_bytes(what)
    if not said.exists() or said.read_bytes() != data:
        shutil.rmtree(job.work.parent, ignore_errors=True)
    shutil.rmtree(job.work / "tmp", ignore_errors=True)
    for path in (job.work / "tmp", job.work / "records"):
        path.mkdir(parents=True, exist_ok=True)
    write_bytes(said, data)


def _stored_record(info: dict, rows: pd.DataFrame, shard: int, rejects: dict[int, list]) -> dict:
    """The record of a shard as it was packed (`shards.packing.make_shard`), from the catalog."""
    sizes = {}
    for name, size in info["sizes"].items():
        entry = next((each for each in size["shards"] if int(Path(each["name"]).stem) == shard), {"samples": 0})
        sizes[name] = {**entry, **{column: rows[f"{column}_{name}"].array for column in ("offset", "length")}}
    texts = [name for name in ("converted", "pixels") if name in rows]
    return {
        "shard": shard,
        **{side: rows[side].array for side in ("height", "width")},
        **{name: rows[name].astype(object).where(rows[name].notna(), None).tolist() for name in texts},
        "rejects": [rejects[row] for row in rows["row"].tolist() if row in rejects],
        "sizes": sizes,
    }


def _spread(record: dict, taken: np.ndarray) -> dict:
    """A record of some rows of its shard (bool [rows]) as one of all of them."""
    places = np.flatnonzero(taken)

    def spread(values: list) -> list:
        full: list = [None] * len(taken)
        for place, value in zip(places, values, strict=True):
            full[place] = value
        return full

    columns = {name: spread(record[name]) for name in ("height", "width", "converted", "pixels")}
    sizes = {
        name: {**size, **{column: spread(size[column]) for column in ("offset", "length")}}
        for name, size in record["sizes"].items()
    }
    return with_arrays({**record, **columns, "sizes": sizes})


def _check_same(change: Change, record: dict, rows: pd.DataFrame, planned: Plan, again: bool) -> None:
    """Raises UserError naming the first file that was packed and is gone or another one by now."""
    root, info = change.job.release.root, change.info
    rejected = {row: reason for row, reason, _ in record["rejects"]}
    known = ["pixels"] if info.get("hashed") else ["height", "width", "converted"]
    pairs = [(rows[name], record[name]) for name in known]
    lengths = {f"length_{name}": size["length"] for name, size in record["sizes"].items() if name in info["sizes"]}
    pairs += [(rows[name], length) for name, length in lengths.items()]
    differs = np.zeros(len(rows), dtype=bool)
    for before, now in pairs:
        differs |= before.astype(object).fillna("").to_numpy() != pd.Series(now).astype(object).fillna("").to_numpy()
    for row in rows["row"][rows["shard"].notna().to_numpy() & differs].tolist():
        what = f"has other pixels now than those that {info['made_by']} packed"
        if row in rejected:
            what = f"cannot be read now ({rejected[row]}), but is packed"
        raise UserError(
            f"{root / planned.path(row)}: {what} in {change.job.out}; put back what was packed and give the same "
            "command again, or pack to another --out folder"
        )
    for name, size in record["sizes"].items():
        for entry in () if again or name not in info["sizes"] else info["sizes"][name]["shards"]:
            if int(Path(entry["name"]).stem) == record["shard"] and entry["sha256"] != size["sha256"]:
                raise UserError(
                    f"{change.job.out / entry['name']}: made again it is another one than {DATASET} says, though its "
                    "images are the same; restore it from a copy, or pack to another --out folder"
                )


def _publish(change: Change, rows: pd.DataFrame, records: list[dict], sizes: dict[int, tuple[Size, ...]]) -> dict:
    """Judge the rejects, write the tables that change, and then the description, which names what is still aside."""
    job, info, out = change.job, change.info, change.out
    aside = out / ASIDE
    options = {**info["options"], "sizes": [size.text for size in job.options.sizes]}
    identity = {"inputs": info["inputs"], "encoders": info["encoders"], "options": options}
    found, tables = describe(job, rows, records, identity, info)
    judge(job, len(rows), found["counts"]["rejected"], aside / REJECTS, tables[REJECTS])
    if not (change.added or change.doubtful):  # lost shards alone: the dataset is the same, as its tables are
        found, tables = info, {}
    hashes = {CATALOG: info["catalog_sha256"], REJECTS: info["rejects_sha256"]}
    staged = [name for name, data in tables.items() if sha256_bytes(data) != hashes[name]]
    for name in staged:
        write_bytes(aside / name, tables[name])
    for record in records:
        for size in sizes.get(record["shard"], ()):
            if record["sizes"][size.folder]["samples"]:
                staged += [f"{size.folder}/{record['shard']:06d}.{extension}" for extension in ("tar", "idx")]
    described = with_id_of(info, {**info, **found, "labels": info["labels"]})
    write_description(out, {**described, "staged": sorted(staged)})
    return described
