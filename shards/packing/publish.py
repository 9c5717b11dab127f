"""The publication of a packed dataset: its catalog, label tables and rejects, and dataset.json last of all."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.api.extensions import ExtensionArray

from shards import __version__
from shards.dataset.catalog import CATALOG, PEOPLE
from shards.dataset.description import FORMAT, dataset_identity, decoded_for, labels_name, write_description
from shards.dataset.pixels import is_constant, same_pixels
from shards.packing.job import PackJob
from shards.releases.release import IMAGE_COLUMNS, LabelTable
from shards.renditions.options import Size
from shards.renditions.source import kind_of
from shards.storage.files import sha256_bytes
from shards.storage.for_people import guarded
from shards.storage.places import storage_of

REJECTS = "rejects.csv"


def with_arrays(record: dict) -> dict:
    """A finished shard's record with arrays for its lists of numbers, as `publish` takes it: as Python's numbers, those
    of half a million images would take four times the memory."""
    for side in ("height", "width"):
        record[side] = pd.array(record[side], dtype="Int32")
    for size in record["sizes"].values():
        for column in ("offset", "length"):
            size[column] = pd.array(size[column], dtype="Int64")
    return record


def publish(job: PackJob, rows: pd.DataFrame, records: list[dict], identity: dict) -> dict:
    """Write catalog, labels and rejects, then dataset.json, and return it."""
    release, out = job.release, job.out
    info, tables = describe(job, rows, records, identity)
    for name, data in tables.items():
        storage_of(out / name).write_bytes(data)
    storage_of(out / "labels").make_folder()
    for table in release.labels:
        inputs = {path.name: identity["inputs"][f"{table.name}/{path.name}"] for path in table.inputs}
        data = labels_parquet(table, rows, inputs)
        storage_of(out / labels_name(table.name)).write_bytes(data)
        info["labels"][table.name] = sha256_bytes(data)
    info["default_labels"] = release.labels[0].name if release.labels else None
    info["stored_labels"] = dict(info["labels"])
    write_description(out, info)
    return info


def describe(
    job: PackJob, rows: pd.DataFrame, records: list[dict], identity: dict, before: dict | None = None
) -> tuple[dict, dict[str, bytes]]:
    """dataset.json of these shards without labels, and the bytes of catalog and rejects by name.

    before: what dataset.json says of those sizes that are there already; the others are new.
    """
    sizes = job.options.sizes
    rejects = [reject for record in records for reject in record["rejects"]]
    converted = [words.split(", ") for record in records for words in record["converted"] if words]
    catalog = _catalog(rows, records, sizes, [row for row, _, _ in rejects])
    tables = {CATALOG: table_parquet(catalog), REJECTS: rejects_csv(rows, rejects)}
    largest = max(size.pixels for size in sizes)
    covers = {size.folder: largest for size in sizes} | (decoded_for(before) if before else {})
    hashed = (before or {"hashed": largest}).get("hashed") if "pixels" in catalog else None
    info = {
        "format": FORMAT,
        "made_by": f"cxrdali {__version__}",
        "release": job.release.name,
        **identity,
        "counts": {
            "planned": len(rows),
            "packed": len(rows) - len(rejects),
            "rejected": dict(sorted(Counter(kind_of(reason) for _, reason, _ in rejects).items())),
            "converted": dict(sorted(Counter(word for words in converted for word in words).items())),
            "studies": int(rows.groupby(["subject_id", "study_id"]).ngroups),
            "subjects": int(rows["subject_id"].nunique()),
            **(_same_pixels(catalog, hashed) if hashed else {}),
        },
        "catalog_sha256": sha256_bytes(tables[CATALOG]),
        "rejects_sha256": sha256_bytes(tables[REJECTS]),
        "labels": {},
        "sizes": {
            size.folder: {
                "pixels": size.pixels,
                "encoding": size.encoding,
                "decoded_for": covers[size.folder],
                "shards": [_shard_entry(r, size) for r in records if r["sizes"][size.folder]["samples"]],
            }
            for size in sizes
        },
        **({"hashed": hashed} if hashed else {}),
    }
    return {**info, "id": dataset_identity(info)}, tables


def _same_pixels(catalog: pd.DataFrame, hashed: int) -> dict[str, int]:
    """How many images have the same pixels as one of another patient, and as one of the same patient alone; those of a
    single gray are not counted."""
    hashes = catalog["pixels"].fillna("").to_numpy(dtype=str)
    group, of_others = same_pixels(hashes, pd.factorize(catalog["subject_id"])[0])
    same = group >= 0
    if same.any():
        same &= ~is_constant(hashes, hashed)
    return {"same_pixels": int((same & of_others).sum()), "same_pixels_of_patient": int((same & ~of_others).sum())}


def _shard_entry(record: dict, size: Size) -> dict:
    made = record["sizes"][size.folder]
    name = f"{size.folder}/{record['shard']:06d}.tar"
    known = ("samples", "bytes", "sha256", "index_sha256", "content")  # the last one not in earlier versions
    return {"name": name, **{key: made[key] for key in known if key in made}}


def _catalog(rows: pd.DataFrame, records: list[dict], sizes: tuple[Size, ...], rejected: list[int]) -> pd.DataFrame:
    catalog = rows[["row", *IMAGE_COLUMNS[:-1]]].copy()
    for name in PEOPLE:
        if name in rows and (rows[name] != "").any():
            catalog[name] = person_column(rows[name])
    for side in ("height", "width"):
        catalog[side] = _joined(record[side] for record in records)
    catalog["converted"] = pd.array([v for record in records for v in record["converted"]], dtype="string")
    if all("pixels" in record for record in records):  # packings of before have none
        catalog["pixels"] = pd.array([v for record in records for v in record["pixels"]], dtype="string")
    catalog["shard"] = rows["shard"].astype("Int32")
    catalog.loc[catalog["row"].isin(rejected), "shard"] = pd.NA
    for size in sizes:
        for column in ("offset", "length"):
            catalog[f"{column}_{size.folder}"] = _joined(record["sizes"][size.folder][column] for record in records)
    return catalog


def person_column(texts: pd.Series) -> pd.Series:
    """A column of people as it is stored; its name says of what. texts: "" where it is not known."""
    given, kinds = texts.where(texts != "", None), {"age": "Float32", "year": "Int32"}
    return pd.to_numeric(given).astype(kinds[str(texts.name)]) if texts.name in kinds else given.astype("string")


def _joined(arrays: Iterable[ExtensionArray]) -> pd.Series:
    return pd.concat([pd.Series(array) for array in arrays], ignore_index=True)


def table_parquet(
    table: pd.DataFrame, metadata: dict | None = None, more: Mapping[bytes, bytes] | None = None
) -> bytes:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    if metadata:
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), "cxrdali": json.dumps(metadata)})
    if more:
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **more})
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer, compression="zstd")
    return buffer.getvalue()


def labels_parquet(table: LabelTable, rows: pd.DataFrame, inputs: dict[str, str]) -> bytes:
    """The bytes of labels/NAME.parquet: a label release joined to the rows of a plan or catalog; `inputs` are the
    sha256 of its tables by name."""
    values = table.table.reindex(rows["image_id"])
    values.insert(0, "row", rows["row"].to_numpy())
    meta = {"name": table.name, "findings": list(table.findings), "inputs": inputs}
    return table_parquet(values.reset_index(drop=True), meta, table.pseudo)


def subjects_parquet(name: str, table: pd.DataFrame, inputs: dict[str, str]) -> bytes:
    """The bytes of subjects/NAME.parquet. table: texts of the people of each row, "" where they are not known."""
    columns = pd.DataFrame({each: person_column(table[each]) for each in PEOPLE if each in table})
    columns.insert(0, "row", range(len(table)))
    return table_parquet(columns.reset_index(drop=True), {"name": name, "inputs": inputs})


def rejects_csv(rows: pd.DataFrame, rejects: list[list]) -> bytes:
    """The bytes of rejects.csv; `rejects` are (row, reason, fingerprint: None if the file may be read another time)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["row", "id", "path", "reason", "fingerprint"])
    for row, reason, seen in rejects:
        texts = map(guarded, (rows["image_id"].iloc[row], rows["path"].iloc[row], reason))
        writer.writerow([row, *texts, "" if seen is None else json.dumps(seen)])
    return buffer.getvalue().encode()
