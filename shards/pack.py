"""From a release to a packed dataset: plan, independent shard tasks, one publication.

Working state lives in PACK/.packing and is removed at publication: options.json (what the folder is being
packed with), records/NNNNNN.json (one finished shard each), tmp/ (files being written), progress, lock.
A shard is finished when its record exists; the record is written after the shard's files have their final
names, so a rerun redoes whatever lacks a record, to the same bytes. dataset.json is written last of all.
"""

import contextlib
import csv
import io
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from shards import __version__
from shards.errors import DataError
from shards.files import json_bytes, only_one, publish, remove_parts, sha256_bytes, sha256_file, write_bytes
from shards.packed import DATASET, Labels, dataset_identity, labels_path, seal
from shards.plan import plan
from shards.release import IMAGE_COLUMNS, LabelTable, Release
from shards.rendition import FITS, RejectedImage, Size, renditions
from shards.tarshard import ShardWriter

WORK = ".packing"
BLANK = Labels.BLANK
PROGRESS_STEP = 8  # images per mark; one mark is one byte appended to .packing/progress


@dataclass(frozen=True)
class PackOptions:
    """What the bytes of a packed dataset depend on, besides the release.

    sizes: stored sizes; fit: squash, pad or crop; quality: JPEG quality, 1 to 100; shard_images: most images
    per shard; seed: order of the studies; limit: pack only the first so many images of the plan (whole
    studies), for a trial.
    """

    sizes: tuple[Size, ...] = (Size(224), Size(320), Size(384), Size(512))
    fit: str = "squash"
    quality: int = 95
    shard_images: int = 4096
    seed: int = 0
    limit: int | None = None

    def __post_init__(self):
        pixels = [size.pixels for size in self.sizes]
        if not pixels:
            raise DataError("no size given; for example --sizes 224,320,384,512")
        if len(set(pixels)) < len(pixels):
            raise DataError(f"size {max(pixels, key=pixels.count)} is given twice; a size is stored once")
        if self.fit not in FITS:
            raise DataError(f"fit {self.fit!r}: choose one of {', '.join(FITS)}")
        if not 1 <= self.quality <= 100:
            raise DataError(f"quality {self.quality}: JPEG quality is 1 to 100")
        if self.shard_images < 1:
            raise DataError(f"shard images {self.shard_images}: at least 1")
        if not 0 <= self.seed < 2**63:
            raise DataError(f"seed {self.seed}: 0 to 2**63 - 1")
        if self.limit is not None and self.limit < 1:
            raise DataError(f"limit {self.limit}: at least 1 image")

    def as_json(self) -> dict:
        return {
            "sizes": [f"{size.pixels}:raw" if size.raw else str(size.pixels) for size in self.sizes],
            "fit": self.fit,
            "quality": self.quality,
            "shard_images": self.shard_images,
            "seed": self.seed,
            "limit": self.limit,
        }


@dataclass(frozen=True)
class PackSummary:
    """What happened. `seconds` and `images_this_run` are of this run, the rest of the whole dataset."""

    planned: int
    packed: int
    rejected: dict[str, int]
    shards: int
    bytes: int
    images_this_run: int = 0
    seconds: float = 0.0
    already_finished: bool = False


@dataclass(frozen=True)
class PackEstimate:
    """A dry run's answer, from `sampled` images packed in memory. `minutes` is for the given jobs."""

    images: int
    studies: int
    subjects: int
    shards: int
    bytes_per_size: dict[str, int]
    minutes: float
    sampled: int
    rejected: dict[str, int] = field(default_factory=dict)


def pack(release: Release, out: Path, options: PackOptions, jobs: int = 1, progress: bool = True) -> PackSummary:
    """Make or finish the packed dataset in `out`; on a finished one, do nothing.

    Raises DataError if `out` was packed with other options, inputs or encoder versions (the differing one is
    named), or if another process is packing it.
    """
    identity = _identity(release, options)
    if (out / DATASET).exists():
        return _finished(out, identity)
    _make_folder(out)
    with only_one(out / WORK / "lock", "packing into it"):
        if (out / DATASET).exists():  # published by the process that held the lock a moment ago
            return _finished(out, identity)
        _claim(out, identity)
        rows = plan(release.images, options.shard_images, options.seed, options.limit)
        started = time.perf_counter()
        made = _make_shards(release, out, options, rows, jobs, progress)
        summary = _publish(release, out, options, rows, identity)
    return PackSummary(
        **{**summary, "images_this_run": made, "seconds": time.perf_counter() - started},
    )


def estimate(release: Release, options: PackOptions, jobs: int = 1, samples: int = 32) -> PackEstimate:
    """Counts from the plan; bytes and time from images spread evenly over it. Writes nothing."""
    rows = plan(release.images, options.shard_images, options.seed, options.limit)
    picked = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(samples, len(rows))).astype(int))]
    sizes, rejected = np.zeros(len(options.sizes)), Counter()
    started = time.perf_counter()
    for path in picked["path"]:
        try:
            images, _, _ = renditions(release.root / path, options.sizes, options.fit, options.quality)
        except RejectedImage as error:
            rejected[str(error)] += 1
            continue
        # per image: data padded to 512 bytes, its header, the .json with its header
        sizes += [-(-len(image) // 512) * 512 + 512 + 1536 for image in images]
    seconds = (time.perf_counter() - started) / max(1, len(picked))
    per_image = sizes / max(1, len(picked) - sum(rejected.values()))
    return PackEstimate(
        images=len(rows),
        studies=int(rows.groupby(["subject_id", "study_id"]).ngroups),
        subjects=int(rows["subject_id"].nunique()),
        shards=int(rows["shard"].max()) + 1,
        bytes_per_size={s.folder: int(b * len(rows)) for s, b in zip(options.sizes, per_image, strict=True)},
        minutes=seconds * len(rows) / jobs / 60,
        sampled=len(picked),
        rejected=dict(rejected),
    )


# ---------------------------------------------------------------- the folder


def _identity(release: Release, options: PackOptions) -> dict:
    """Everything that decides the bytes; compared on every rerun."""
    versions = {name: _version(name) for name in ("simplejpeg", "opencv-python-headless")}
    inputs = {}
    for path in release.inputs:
        inputs[path.name] = sha256_file(path)
    for table in release.labels:
        for path in table.inputs:
            inputs[f"{table.name}/{path.name}"] = sha256_file(path)
    return {"options": options.as_json(), "inputs": inputs, "encoders": versions}


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _refuse_difference(out: Path, found: dict, wanted: dict) -> None:
    for group, values in wanted.items():
        for name in sorted({*values, *found[group]}):
            before, now = found[group].get(name), values.get(name)
            if before == now:
                continue
            what = {"options": "option", "inputs": "input table", "encoders": "encoder version"}[group]
            if group == "inputs":
                before, now = (v and v[:12] for v in (before, now))
            raise DataError(
                f"{out}: was packed with another {what} {name!r}: {before} there, {now} now; "
                "give the same again, or another --out folder"
            )


def _finished(out: Path, identity: dict) -> PackSummary:
    info = json.loads((out / DATASET).read_bytes())
    _refuse_difference(out, info, identity)
    shutil.rmtree(out / WORK, ignore_errors=True)  # left by a kill between publication and clean-up
    return PackSummary(**_summary(info), already_finished=True)


def _summary(info: dict) -> dict:
    return {
        "planned": info["counts"]["planned"],
        "packed": info["counts"]["packed"],
        "rejected": info["counts"]["rejected"],
        "shards": len(next(iter(info["sizes"].values()))["shards"]),
        "bytes": sum(shard["bytes"] for size in info["sizes"].values() for shard in size["shards"]),
    }


def _make_folder(out: Path) -> None:
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made ({error.strerror}); give another --out folder") from error
    strangers = sorted(p.name for p in out.iterdir() if p.name != WORK)
    if strangers and not (out / WORK / "options.json").exists():
        (out / WORK).rmdir()
        raise DataError(f"{out}: holds {strangers[0]!r}, which is no packed dataset; give an empty folder")


def _claim(out: Path, identity: dict) -> None:
    options = out / WORK / "options.json"
    if options.exists():
        _refuse_difference(out, json.loads(options.read_bytes()), identity)
    else:
        write_bytes(options, json_bytes(identity))
    shutil.rmtree(out / WORK / "tmp", ignore_errors=True)
    for folder in (out, *(path for path in out.iterdir() if path.is_dir()), out / WORK / "records"):
        remove_parts(folder)
    for folder in ("records", "tmp"):
        (out / WORK / folder).mkdir(exist_ok=True)
    (out / WORK / "progress").write_bytes(b"")


# ---------------------------------------------------------------- shard tasks


def _make_shards(
    release: Release, out: Path, options: PackOptions, rows: pd.DataFrame, jobs: int, progress: bool
) -> int:
    """Make every shard that has no record; returns the images read in this run."""
    for size in options.sizes:
        (out / size.folder).mkdir(exist_ok=True)
    missing = [s for s in range(int(rows["shard"].max()) + 1) if not _record_path(out, s).exists()]
    bounds = np.searchsorted(rows["shard"].to_numpy(), [*missing, *(s + 1 for s in missing)]).reshape(2, -1)
    count = int((bounds[1] - bounds[0]).sum())
    tasks = (
        joblib.delayed(_make_shard)(
            release.root,
            out,
            options,
            shard,
            rows.iloc[start:stop],
            _findings(release.labels, rows["image_id"].iloc[start:stop]),
        )
        for shard, start, stop in zip(missing, *bounds.tolist(), strict=True)
    )
    with _progress_bar(out, count, disable=not progress):
        for _ in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(tasks):
            pass
    return count


@contextlib.contextmanager
def _progress_bar(out: Path, images: int, disable: bool) -> Iterator[None]:
    """Workers append a byte per few images to one file, and its length is the count.

    joblib tells of finished shards only, which at 4,096 images is a minute apart.
    """
    stop = threading.Event()
    marks = out / WORK / "progress"
    with tqdm(total=images, unit=" images", desc="packing", disable=disable or not images, smoothing=0.05) as bar:

        def follow():
            while not stop.wait(0.5):
                bar.update(min(images, marks.stat().st_size * PROGRESS_STEP) - bar.n)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
            bar.update(images - bar.n)
        finally:
            stop.set()
            thread.join()


def _findings(labels: tuple[LabelTable, ...], images: pd.Series) -> list[dict[str, dict]]:
    """Per image its findings in every label table, as they go into KEY.json: what is not listed is negative."""
    entries: list[dict[str, dict]] = [{} for _ in images]
    for table in labels:
        values = table.table.reindex(images)
        known = values[list(table.findings)].fillna(BLANK).to_numpy(dtype=np.int8)
        names = np.array(table.findings, dtype=object)
        for entry, split, row in zip(entries, values["split"], known, strict=True):
            entry[table.name] = found = {"split": split if isinstance(split, str) else None}
            for word, value in (("positive", 1), ("uncertain", -1), ("blank", BLANK)):
                listed = names[row == value].tolist()
                if listed or word == "positive":
                    found[word] = listed
    return entries


def _record_path(out: Path, shard: int) -> Path:
    return out / WORK / "records" / f"{shard:06d}.json"


def _make_shard(
    root: Path, out: Path, options: PackOptions, shard: int, rows: pd.DataFrame, findings: list[dict]
) -> None:
    """One shard in all sizes. Holds one image at a time, so memory does not grow with anything."""
    import cv2

    cv2.setNumThreads(1)  # the workers are the parallelism
    tmp = out / WORK / "tmp"
    paths = [tmp / f"{size.folder}-{shard:06d}.{os.getpid()}.tar" for size in options.sizes]
    writers = [ShardWriter(path) for path in paths]
    heights, widths, rejects = [], [], []
    spans = [([], []) for _ in writers]
    try:
        with (out / WORK / "progress").open("ab", buffering=0) as marks:
            for place, (row, found) in enumerate(zip(rows.itertuples(), findings, strict=True)):
                if place % PROGRESS_STEP == PROGRESS_STEP - 1:
                    marks.write(b".")
                try:
                    images, height, width = renditions(root / row.path, options.sizes, options.fit, options.quality)
                except RejectedImage as error:
                    rejects.append([int(row.row), str(error)])
                    images, height, width = None, None, None
                heights.append(height)
                widths.append(width)
                meta = _sample_json(row, found)
                for size_place, (writer, size) in enumerate(zip(writers, options.sizes, strict=True)):
                    offset, length = None, None
                    if images:
                        parts = {size.extension: images[size_place], "json": meta}
                        offset, length = writer.write(row.key, parts)
                    spans[size_place][0].append(offset)
                    spans[size_place][1].append(length)
        record = {"shard": shard, "first": int(rows["row"].iloc[0]), "height": heights, "width": widths}
        record |= {"rejects": rejects, "sizes": {}}
        for path, writer, size, (offsets, lengths) in zip(paths, writers, options.sizes, spans, strict=True):
            writer.close()
            final = out / size.folder / f"{shard:06d}.tar"
            publish(path, final)
            index = writer.index.encode()
            write_bytes(final.with_suffix(".idx"), index)
            record["sizes"][size.folder] = {
                "samples": len(rows) - len(rejects),
                "bytes": writer.bytes,
                "sha256": writer.sha256,
                "index_sha256": sha256_bytes(index),
                "offset": offsets,
                "length": lengths,
            }
        write_bytes(_record_path(out, shard), json_bytes(record))
    except BaseException:
        for writer, path in zip(writers, paths, strict=True):
            writer.abort()
            path.unlink(missing_ok=True)
        raise


def _sample_json(row, findings: dict[str, dict]) -> bytes:
    sample = {
        "image_id": row.image_id,
        "study_id": row.study_id,
        "subject_id": row.subject_id,
        "view": row.view,
        "view_position": row.view_position,
        "findings": findings,
    }
    return json.dumps(sample, ensure_ascii=False, separators=(",", ":")).encode()


# ---------------------------------------------------------------- publication


def _publish(release: Release, out: Path, options: PackOptions, rows: pd.DataFrame, identity: dict) -> dict:
    """Write catalog, labels and rejects, then dataset.json; returns the summary's fields."""
    shards = int(rows["shard"].max()) + 1
    records = [json.loads(_record_path(out, shard).read_bytes()) for shard in range(shards)]
    rejects = [tuple(reject) for record in records for reject in record["rejects"]]
    catalog = _catalog(rows, records, options, [row for row, _ in rejects])
    catalog_bytes = _parquet(catalog)
    rejects_bytes = _rejects_csv(rows, rejects)
    write_bytes(out / "catalog.parquet", catalog_bytes)
    write_bytes(out / "rejects.csv", rejects_bytes)
    labels = {}
    (out / "labels").mkdir(exist_ok=True)
    for table in release.labels:
        data = _labels_parquet(table, rows, {p.name: sha256_file(p) for p in table.inputs})
        write_bytes(labels_path(out, table.name), data)
        labels[table.name] = sha256_bytes(data)
    info = {
        "format": 1,
        "made_by": f"cxrdali {__version__}",
        "release": release.name,
        **identity,
        "counts": {
            "planned": len(rows),
            "packed": len(rows) - len(rejects),
            "rejected": dict(sorted(Counter(reason for _, reason in rejects).items())),
            "studies": int(rows.groupby(["subject_id", "study_id"]).ngroups),
            "subjects": int(rows["subject_id"].nunique()),
        },
        "catalog_sha256": sha256_bytes(catalog_bytes),
        "rejects_sha256": sha256_bytes(rejects_bytes),
        "labels": labels,
        "default_labels": release.labels[0].name if release.labels else None,
        "sizes": {
            size.folder: {
                "pixels": size.pixels,
                "encoding": size.encoding,
                "shards": [_shard_entry(record, size) for record in records],
            }
            for size in options.sizes
        },
    }
    info["id"] = dataset_identity(info)
    write_bytes(out / DATASET, json_bytes(seal(info)))
    shutil.rmtree(out / WORK, ignore_errors=True)
    return _summary(info)


def _shard_entry(record: dict, size: Size) -> dict:
    made = record["sizes"][size.folder]
    name = f"{size.folder}/{record['shard']:06d}.tar"
    return {"name": name, **{key: made[key] for key in ("samples", "bytes", "sha256", "index_sha256")}}


def _catalog(rows: pd.DataFrame, records: list[dict], options: PackOptions, rejected: list[int]) -> pd.DataFrame:
    catalog = rows[["row", *IMAGE_COLUMNS[:-1]]].copy()
    for side in ("height", "width"):
        catalog[side] = pd.array([v for record in records for v in record[side]], dtype="Int32")
    catalog["shard"] = rows["shard"].astype("Int32")
    catalog.loc[catalog["row"].isin(rejected), "shard"] = pd.NA
    for size in options.sizes:
        for column in ("offset", "length"):
            values = [v for record in records for v in record["sizes"][size.folder][column]]
            catalog[f"{column}_{size.folder}"] = pd.array(values, dtype="Int64")
    return catalog


def _parquet(table: pd.DataFrame, metadata: dict | None = None) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    if metadata:
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), "cxrdali": json.dumps(metadata)})
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer, compression="zstd")
    return buffer.getvalue()


def _labels_parquet(table: LabelTable, rows: pd.DataFrame, inputs: dict[str, str]) -> bytes:
    values = table.table.reindex(rows["image_id"])
    values.insert(0, "row", rows["row"].to_numpy())
    meta = {"name": table.name, "findings": list(table.findings), "inputs": inputs}
    return _parquet(values.reset_index(drop=True), meta)


def _rejects_csv(rows: pd.DataFrame, rejects: list[tuple[int, str]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["row", "id", "path", "reason"])
    for row, reason in rejects:
        writer.writerow([row, rows["image_id"].iloc[row], rows["path"].iloc[row], reason])
    return buffer.getvalue().encode()
