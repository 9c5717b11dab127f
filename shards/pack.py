"""From a release to a packed dataset: plan, independent shard tasks, one publication.

Working state lives in PACK/.packing and is removed at publication: options.json (what the folder is being
packed with), records/NNNNNN.json (one finished shard each), tmp/ (files being written), lock.
A shard is finished when its record exists; the record is written after the shard's files have their final
names, so a rerun redoes whatever lacks a record, to the same bytes, and the shards of which a rejected file has
changed since. dataset.json is written last of all.
"""

import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa

from shards import checksums
from shards.description import DATASET
from shards.errors import DataError
from shards.files import cannot_write, json_bytes, only_one, remove_parts, sha256_file, write_bytes
from shards.findings import findings_of
from shards.make_shard import WORK, PlannedImage, ShardTask, fingerprint, make_shard, record_path
from shards.packed import PackedDataset
from shards.plan import plan
from shards.publish import publish, rejects_csv
from shards.release import Release, check_links, check_subjects
from shards.rendition import FITS, Size, renditions
from shards.source import CHECKSUMS, RejectedImage, kind_of
from shards.window import WINDOWS
from shards.workers import Watch, run


@dataclass(frozen=True)
class PackOptions:
    """What the bytes of a packed dataset depend on, besides the release.

    sizes: stored sizes; fit: squash, pad or crop; quality: JPEG quality, 1 to 100; shard_images: most images
    per shard; seed: order of the studies; limit: pack only the first so many images of the plan (whole
    studies), for a trial; check_hashes: reject images that are not those of the release's SHA256SUMS.txt;
    allow_links: follow links that leave the release's folder; window: how 16-bit images become 8-bit, percentile,
    minmax or full (`shards.window`).
    """

    sizes: tuple[Size, ...] = (Size(224), Size(320), Size(384), Size(512))
    fit: str = "squash"
    quality: int = 95
    shard_images: int = 4096
    seed: int = 0
    limit: int | None = None
    check_hashes: bool = False
    allow_links: bool = False
    window: str = "percentile"

    def __post_init__(self):
        pixels = [size.pixels for size in self.sizes]
        if not pixels:
            raise DataError("no size given; for example --sizes 224,320,384,512")
        if len(set(pixels)) < len(pixels):
            raise DataError(f"size {max(pixels, key=pixels.count)} is given twice; a size is stored once")
        if self.fit not in FITS:
            raise DataError(f"fit {self.fit!r}: choose one of {', '.join(FITS)}")
        if self.window not in WINDOWS:
            raise DataError(f"window {self.window!r}: choose one of {', '.join(WINDOWS)}")
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
            "check_hashes": self.check_hashes,
            "allow_links": self.allow_links,
            "window": self.window,
        }


@dataclass(frozen=True)
class PackLimits:
    """What is tolerated, without influence on any byte: it may differ from one run to the next.

    max_reject_fraction: share of the planned images that may be rejected, judged once, when all are read;
    allow_subject_overlap: pack labels that have a subject in two splits; stall: seconds in which a worker must
    finish an image.
    """

    max_reject_fraction: float = 0.01
    allow_subject_overlap: bool = False
    stall: float = 25.0

    def __post_init__(self):
        if not 0 <= self.max_reject_fraction <= 1:
            raise DataError(f"max reject fraction {self.max_reject_fraction}: 0 to 1, for example 0.01")
        if not (self.stall > 0 and math.isfinite(self.stall)):
            raise DataError(f"stall {self.stall}: more than 0 seconds")


@dataclass(frozen=True)
class PackSummary:
    """What happened. `seconds` and `images_this_run` are of this run, the rest of the whole dataset.

    rejected: images by reason; converted: images by what they were besides 8-bit gray baseline.
    """

    planned: int
    packed: int
    rejected: dict[str, int]
    converted: dict[str, int]
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


def pack(
    release: Release,
    out: Path,
    options: PackOptions,
    jobs: int = 1,
    progress: bool = True,
    limits: PackLimits | None = None,
) -> PackSummary:
    """Make or finish the packed dataset in `out`; on a finished one, do nothing.

    Raises DataError if `out` was packed with other options, inputs or encoder versions (the differing one is
    named), if another process is packing it, if a subject is in two splits, a path leaves the release, a worker
    dies or stalls, there is no room, or more images were rejected than `limits` allow.
    """
    limits = limits or PackLimits()
    if out.resolve().is_relative_to(release.root.resolve()):
        raise DataError(f"{out}: lies in the release, which is only read; give an --out folder outside {release.root}")
    identity = _identity(release, options)
    if (out / DATASET).exists():
        return _finished(out, identity)
    rows = _planned(release, options, limits)
    try:
        _make_folder(out)
        with only_one(out / WORK / "lock", "packing into it"):
            if (out / DATASET).exists():  # published by the process that held the lock a moment ago
                return _finished(out, identity)
            _claim(out, identity)
            started = time.perf_counter()
            made = _make_missing(release, out, options, limits, rows, jobs, progress)
            records = [json.loads(record_path(out, shard).read_bytes()) for shard in range(_shards(rows))]
            _judge(out, rows, records, limits)
            info = publish(release, out, options, rows, records, identity)
            shutil.rmtree(out / WORK, ignore_errors=True)
    except OSError as error:
        # a worker's too; it names a file of this run's own, users know the dataset
        raise cannot_write(out, error) from error
    return PackSummary(**_summary(info), images_this_run=made, seconds=time.perf_counter() - started)


def _planned(release: Release, options: PackOptions, limits: PackLimits) -> pd.DataFrame:
    """Every check that needs no image, then the plan, with the published hashes if they are to be checked."""
    if not options.allow_links:
        check_links(release)
    if not limits.allow_subject_overlap:
        for table in release.labels:
            check_subjects(table, release.images)
    images = release.images
    if options.check_hashes:
        images = images.assign(sha256=checksums.of_images(release))
    rows = plan(images, options.shard_images, options.seed, options.limit)
    pa.default_memory_pool().release_unused()  # what reading the tables left: more than the tables
    return rows


def _shards(rows: pd.DataFrame) -> int:
    return int(rows["shard"].max()) + 1


def _inside(release: Release, options: PackOptions) -> str | None:
    return None if options.allow_links else os.path.realpath(release.root)


def _judge(out: Path, rows: pd.DataFrame, records: list[dict], limits: PackLimits) -> None:
    """Once, when all images are read: one bad image more or less must not depend on when it came."""
    rejects = [reject for record in records for reject in record["rejects"]]
    if len(rejects) <= limits.max_reject_fraction * len(rows):
        return
    listing = out / WORK / "rejects.csv"
    write_bytes(listing, rejects_csv(rows, rejects))
    counts = Counter(kind_of(reason) for _, reason, _ in rejects).most_common()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts)
    raise DataError(
        f"{out}: {len(rejects):,} of {len(rows):,} images ({len(rejects) / len(rows):.2%}) were rejected, more than "
        f"--max-reject-fraction {limits.max_reject_fraction:g} allows: {reasons} (listed in {listing}); repair them "
        "and run the same command again, which reads only the shards of repaired files, or raise the fraction"
    )


def estimate(
    release: Release, options: PackOptions, jobs: int = 1, samples: int = 32, limits: PackLimits | None = None
) -> PackEstimate:
    """Counts from the plan; bytes and time from images spread evenly over it. Writes nothing."""
    rows = _planned(release, options, limits or PackLimits())
    picked = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(samples, len(rows))).astype(int))]
    sizes, rejected = np.zeros(len(options.sizes)), Counter()
    started = time.perf_counter()
    hashes = picked["sha256"] if options.check_hashes else [None] * len(picked)
    inverted = picked["inverted"] if "inverted" in picked else [False] * len(picked)
    for path, sha256, inverts in zip(picked["path"], hashes, inverted, strict=True):
        try:
            images, _ = renditions(
                *(release.root / path, options.sizes, options.fit, options.quality, _inside(release, options), sha256),
                *(options.window, bool(inverts)),
            )
        except RejectedImage as error:
            rejected[kind_of(str(error))] += 1
            continue
        # per image: data padded to 512 bytes, its header, the .json with its header
        sizes += [-(-len(image) // 512) * 512 + 512 + 1536 for image in images]
    seconds = (time.perf_counter() - started) / max(1, len(picked))
    per_image = sizes / max(1, len(picked) - sum(rejected.values()))
    return PackEstimate(
        images=len(rows),
        studies=int(rows.groupby(["subject_id", "study_id"]).ngroups),
        subjects=int(rows["subject_id"].nunique()),
        shards=_shards(rows),
        bytes_per_size={s.folder: int(b * len(rows)) for s, b in zip(options.sizes, per_image, strict=True)},
        minutes=seconds * len(rows) / jobs / 60,
        sampled=len(picked),
        rejected=dict(rejected),
    )


# ---------------------------------------------------------------- the folder


def _identity(release: Release, options: PackOptions) -> dict:
    """Everything that decides the bytes; compared on every rerun."""
    versions = {"simplejpeg": version("simplejpeg"), "opencv": cv2.__version__}
    inputs = {}
    for path in release.inputs:
        inputs[path.name] = sha256_file(path)
    for table in release.labels:
        for path in table.inputs:
            inputs[f"{table.name}/{path.name}"] = sha256_file(path)
    if options.check_hashes and (release.root / CHECKSUMS).exists():
        inputs[CHECKSUMS] = sha256_file(release.root / CHECKSUMS)
    return {"options": {**options.as_json(), **release.reading}, "inputs": inputs, "encoders": versions}


def _refuse_difference(out: Path, found: dict, wanted: dict) -> None:
    for group, values in wanted.items():
        for name in sorted({*values, *found[group]}):
            before, now = found[group].get(name), values.get(name)
            if before == now:
                continue
            what = {"options": "option", "inputs": "input table", "encoders": "encoder version"}[group]
            if group == "inputs":
                before, now = (v[:12] if v else "not given" for v in (before, now))
            raise DataError(
                f"{out}: was packed with another {what} {name!r}: {before} there, {now} now; "
                "give the same again, or another --out folder"
            )


def _with_window(found: dict, wanted: dict, deep: Callable[[], bool]) -> dict:
    """What was packed before --window existed is packed with any window, unless it has 16-bit images (`deep`)."""
    if "window" in found["options"]:
        return found
    window = "the bits in use (by an older cxrdali)" if deep() else wanted["options"]["window"]
    return {**found, "options": {**found["options"], "window": window}}


def _has_deep(out: Path) -> bool:
    """Whether a finished shard of an unfinished dataset has an image that was 16-bit."""
    records = (json.loads(path.read_bytes()) for path in (out / WORK / "records").glob("*.json"))
    return any("16-bit" in (words or "") for record in records for words in record["converted"])


def _finished(out: Path, identity: dict) -> PackSummary:
    dataset = PackedDataset.open(out)  # refuses a damaged description, a missing or cut shard
    found = _with_window(dataset.info, identity, lambda: "16-bit" in _summary(dataset.info)["converted"])
    _refuse_difference(out, found, identity)
    for name in dataset.info["sizes"]:
        if not (out / name).is_dir():
            raise DataError(f"{out / name}: the folder is missing; restore it, or delete {out} and pack again")
    shutil.rmtree(out / WORK, ignore_errors=True)  # left by a kill between publication and clean-up
    return PackSummary(**_summary(dataset.info), already_finished=True)


def _summary(info: dict) -> dict:
    return {
        "planned": info["counts"]["planned"],
        "packed": info["counts"]["packed"],
        "rejected": info["counts"]["rejected"],
        "converted": info["counts"].get("converted", {}),
        "shards": len(next(iter(info["sizes"].values()))["shards"]),
        "bytes": sum(shard["bytes"] for size in info["sizes"].values() for shard in size["shards"]),
    }


def _make_folder(out: Path) -> None:
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{out}: is no folder; give another --out") from error
    strangers = sorted(p.name for p in out.iterdir() if p.name != WORK)
    if strangers and DATASET not in strangers and not (out / WORK / "options.json").exists():
        (out / WORK).rmdir()
        raise DataError(f"{out}: holds {strangers[0]!r}, which is no packed dataset; give an empty folder")


def _claim(out: Path, identity: dict) -> None:
    options = out / WORK / "options.json"
    if options.exists():
        before = json.loads(options.read_bytes())
        _refuse_difference(out, _with_window(before, identity, lambda: _has_deep(out)), identity)
    if not options.exists() or before != identity:
        write_bytes(options, json_bytes(identity))
    shutil.rmtree(out / WORK / "tmp", ignore_errors=True)
    for folder in (out, *(path for path in out.iterdir() if path.is_dir()), out / WORK / "records"):
        remove_parts(folder)
    for folder in ("records", "tmp"):
        (out / WORK / folder).mkdir(exist_ok=True)


# ---------------------------------------------------------------- shards


def _make_missing(
    release: Release,
    out: Path,
    options: PackOptions,
    limits: PackLimits,
    rows: pd.DataFrame,
    jobs: int,
    progress: bool,
) -> int:
    """Make every shard that has no record, or one that has to be looked at again; returns the images read."""
    for size in options.sizes:
        (out / size.folder).mkdir(exist_ok=True)
    missing = [shard for shard in range(_shards(rows)) if not _is_made(release, out, shard, rows)]
    bounds = np.searchsorted(rows["shard"].to_numpy(), [*missing, *(s + 1 for s in missing)]).reshape(2, -1)
    spans = {shard: (start, stop) for shard, start, stop in zip(missing, *bounds.tolist(), strict=True)}
    count = sum(stop - start for start, stop in spans.values())
    # a folder of this run's own: what a killed run's workers still do, they do in a folder that is gone
    tmp = Path(tempfile.mkdtemp(dir=out / WORK / "tmp"))
    inside, parent = _inside(release, options), os.getpid()
    tasks = (
        joblib.delayed(make_shard)(
            ShardTask(
                *(release.root, inside, out, tmp, options.sizes, options.fit, options.quality, options.window),
                *(shard, parent),
            ),
            _planned_images(release, rows.iloc[start:stop]),
        )
        for shard, (start, stop) in spans.items()
    )

    def image_of(shard: int, place: int) -> str:
        start, stop = spans[shard]
        return str(release.root / rows["path"].iloc[min(start + place, stop - 1)])

    with Watch(tmp, count, limits.stall, image_of, progress) as watch:
        for shard in run(tasks, jobs, str(out)):
            start, stop = spans[shard]
            watch.finished(stop - start)
    return count


def _planned_images(release: Release, rows: pd.DataFrame) -> list[PlannedImage]:
    """What a worker has to know of some rows of the plan."""
    # columns only if hashes are to be checked, and if the release tells MONOCHROME1
    given = {"sha256": None, "inverted": False, **{name: rows[name] for name in rows}}
    columns = [given[name] for name in PlannedImage._fields if name != "findings"]
    lists = [column.tolist() if isinstance(column, pd.Series) else [column] * len(rows) for column in columns]
    return [PlannedImage(*values) for values in zip(*lists, findings_of(release.labels, rows["image_id"]), strict=True)]


def _is_made(release: Release, out: Path, shard: int, rows: pd.DataFrame) -> bool:
    """Whether a shard is finished, and the files that it rejected are still as they were."""
    path = record_path(out, shard)
    if not path.exists():
        return False
    rejects = json.loads(path.read_bytes())["rejects"]
    return all(fingerprint(release.root / rows["path"].iloc[row]) == seen for row, _, seen in rejects)
