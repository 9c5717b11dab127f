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
import json
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa

from shards import checksums
from shards.description import DATASET, FORMAT, parse_description
from shards.engine import Engine, Local, Work
from shards.errors import DataError
from shards.files import (
    cannot_write,
    json_bytes,
    make_folder,
    one_by_one,
    only_one,
    remove_parts,
    sha256_bytes,
    sha256_file,
    write_bytes,
)
from shards.findings import findings_of
from shards.make_shard import WORK, PlannedImage, ShardTask, fingerprint, record_path
from shards.packed import PackedDataset
from shards.plan import Plan, plan, sample_key
from shards.publish import publish, rejects_csv, with_arrays
from shards.release import Release, check_links, check_subjects
from shards.remote import WRITABLE, entries, is_remote, is_there, reaching, read_bytes, remove_tree
from shards.rendition import FITS, Size, renditions
from shards.source import CHECKSUMS, RejectedImage, kind_of
from shards.window import WINDOWS

AT_A_TIME = 256  # records that are fetched together from a store


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
class Part:
    """Part `index` (from 1) of `count`: the shards that one of several packers makes."""

    index: int
    count: int

    @staticmethod
    def parse(text: str) -> "Part":
        """From 3/8. Raises DataError if it is no such thing."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise DataError(f"part {text!r}: give I/N, part I of N, counted from 1; for example 3/8")
        return Part(int(index), int(count))

    def of(self, shards: int) -> range:
        return range(self.index - 1, shards, self.count)


@dataclass(frozen=True)
class PartSummary:
    """What packing a part has done; `finished` of `shards` are made, by whomever."""

    part: Part
    finished: int
    shards: int
    images_this_run: int
    seconds: float


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
    engine: Engine | None = None,
    part: Part | None = None,
) -> PackSummary | PartSummary:
    """Make or finish the packed dataset in `out`; on a finished one, do nothing.

    engine: who makes the shards, instead of `jobs` processes of this machine (`shards.cluster.Dask`); part: make only
    the shards of one part, beside other processes that make other parts, and publish nothing.

    Raises DataError if `out` was packed with other options, inputs or encoder versions (the differing one is
    named), if another process is packing it, if a subject is in two splits, a path leaves the release, a worker
    dies or stalls, there is no room, or more images were rejected than `limits` allow.
    """
    limits = limits or PackLimits()
    _check_writable(out)
    if _lies_in(out, release.root):
        raise DataError(f"{out}: lies in the release, which is only read; give an --out folder outside {release.root}")
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
                *(release, out, work, options, limits, planned, engine or Local(jobs), progress, part or Part(1, 1))
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
            raise DataError(f"{cannot_write(work, error)}; TMPDIR names the folder of temporary files") from error
        raise cannot_write(out, error) from error
    return PackSummary(**_summary(info), images_this_run=made, seconds=time.perf_counter() - started)


@contextlib.contextmanager
def _removed_at_the_end(folder: Path, wanted: bool) -> Iterator[None]:
    try:
        yield
    finally:
        if wanted:
            shutil.rmtree(folder, ignore_errors=True)


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
    raise DataError(
        f"{out}: {len(rejects):,} of {len(rows):,} images ({len(rejects) / len(rows):.2%}) were rejected, more than "
        f"--max-reject-fraction {limits.max_reject_fraction:g} allows: {reasons} (listed in {listing}); repair them "
        "and run the same command again, which reads only the shards of repaired files, or raise the fraction"
    )


def estimate(
    release: Release, options: PackOptions, jobs: int = 1, samples: int = 32, limits: PackLimits | None = None
) -> PackEstimate:
    """Counts from the plan; bytes and time from images spread evenly over it. Writes nothing."""
    planned = _planned(release, options, limits or PackLimits())
    rows = planned.rows()
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
        shards=planned.shards,
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
    if options.check_hashes and is_there(release.root / CHECKSUMS):
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
    records = (json.loads(read_bytes(record_path(out, shard))) for shard in _recorded(out))
    return any("16-bit" in (words or "") for record in records for words in record["converted"])


def _finished(out: Path, identity: dict) -> PackSummary:
    # both refuse a damaged description, a missing or cut shard
    info = _stored_whole(out) if is_remote(out) else PackedDataset.open(out).info
    found = _with_window(info, identity, lambda: "16-bit" in _summary(info)["converted"])
    _refuse_difference(out, found, identity)
    for name in info["sizes"]:
        if not is_remote(out) and not (out / name).is_dir():
            raise DataError(f"{out / name}: the folder is missing; restore it, or delete {out} and pack again")
    _remove_work(out)  # left by a kill between publication and clean-up
    return PackSummary(**_summary(info), already_finished=True)


def _stored_whole(out: Path) -> dict:
    """The description of a finished dataset in a bucket, with one listing per size instead of a copy of anything."""
    path = out / DATASET
    info, sealed = parse_description(path, read_bytes(path))
    if not sealed or info.get("format") != FORMAT:
        raise DataError(f"{path}: damaged, or of another version of cxrdali; delete it and pack again")
    for name, size in info["sizes"].items():
        found = {f"{name}/{entry}": held for entry, _, held in entries(out / name)}
        for shard in size["shards"]:
            held = found.get(shard["name"])
            if held != shard["bytes"]:
                what = "is missing" if held is None else f"has {held} bytes"
                raise DataError(
                    f"{out / shard['name']}: {what}, {DATASET} says {shard['bytes']}; put it there again, or delete "
                    f"{path} and pack again"
                )
    return info


def _summary(info: dict) -> dict:
    return {
        "planned": info["counts"]["planned"],
        "packed": info["counts"]["packed"],
        "rejected": info["counts"]["rejected"],
        "converted": info["counts"].get("converted", {}),
        "shards": len(next(iter(info["sizes"].values()))["shards"]),
        "bytes": sum(shard["bytes"] for size in info["sizes"].values() for shard in size["shards"]),
    }


def work_folder(out: Path) -> Path:
    """Where unfinished files and the lock are, on this machine: in the dataset, or of one in a bucket among the
    temporary files, under a name by which the next run finds what a kill left."""
    if not is_remote(out):
        return out / WORK
    return Path(tempfile.gettempdir()) / f"cxrdali-{os.getuid()}-{sha256_bytes(str(out).encode())[:16]}"


def _check_writable(out: Path) -> None:
    if is_remote(out) and out.protocol not in WRITABLE:
        protocols = ", ".join(f"{protocol}://" for protocol in WRITABLE)
        raise DataError(f"{out}: {out.protocol}:// is only read; give --out a folder, or one of {protocols}")


def _lies_in(out: Path, root: Path) -> bool:
    if is_remote(out) or is_remote(root):
        return f"{out}/".startswith(f"{str(root).rstrip('/')}/")  # a bucket itself ends in a slash
    return out.resolve().is_relative_to(root.resolve())


def _make_folder(out: Path, work: Path) -> None:
    try:
        work.mkdir(0o700 if is_remote(out) else 0o777, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{work if is_remote(out) else out}: is no folder; give another --out") from error
    if is_remote(out) and work.lstat().st_uid != os.getuid():  # in a folder that all users may write to
        raise DataError(f"{work}: belongs to another user; set TMPDIR to a folder of yours")
    names = (name for name, _, _ in entries(out)) if is_remote(out) else (path.name for path in out.iterdir())
    strangers = sorted(name for name in names if name != WORK)
    if strangers and DATASET not in strangers and not is_there(out / WORK / "options.json"):
        with contextlib.suppress(OSError):  # of a bucket's, a killed run may have left something in it
            work.rmdir()
        raise DataError(f"{out}: holds {strangers[0]!r}, which is no packed dataset; give an empty folder")


def _claim(out: Path, work: Path, identity: dict, alone: bool) -> None:
    """Say what the folder is packed with, and remove what killed runs left, unless other parts may be at work."""
    options, before = out / WORK / "options.json", None
    if is_there(options):
        before = json.loads(read_bytes(options))
        _refuse_difference(out, _with_window(before, identity, lambda: _has_deep(out)), identity)
    if before != identity:
        write_bytes(options, json_bytes(identity))
    if alone:
        shutil.rmtree(work / "tmp", ignore_errors=True)
    if alone and not is_remote(out):  # where an object is whole or not there
        for folder in (out, *(path for path in out.iterdir() if path.is_dir()), work / "records"):
            remove_parts(folder)
    make_folder(out / WORK / "records")
    make_folder(work / "tmp")


def _remove_work(out: Path) -> None:
    """The dataset is published: what cannot be removed must not make an error of it."""
    if not is_remote(out):
        shutil.rmtree(out / WORK, ignore_errors=True)
        return
    with contextlib.suppress(DataError):
        remove_tree(out / WORK)


# ---------------------------------------------------------------- shards


def _make_missing(
    release: Release,
    out: Path,
    work: Path,
    options: PackOptions,
    limits: PackLimits,
    planned: Plan,
    engine: Engine,
    progress: bool,
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

    missing = Work(release.root, out, tmp, planned, spans, limits.stall, progress)
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


def _recorded(out: Path) -> set[int]:
    """The finished shards, from one listing: a look at each record is a round trip where it lies in a bucket."""
    folder = out / WORK / "records"
    names = [name for name, _, _ in entries(folder)] if is_remote(out) else [path.name for path in folder.iterdir()]
    return {int(name.removesuffix(".json")) for name in names if name[:1].isdigit()}


def _records(out: Path, shards: Sequence[int]) -> Iterator[dict]:
    """The records of finished shards, in this order; out of a store, where each is a round trip, many at a time."""
    for start in range(0, len(shards), AT_A_TIME):
        paths = [record_path(out, shard) for shard in shards[start : start + AT_A_TIME]]
        if is_remote(out):
            with reaching(out):
                found = out.fs.cat([path.path for path in paths])
            yield from (json.loads(found[path.path]) for path in paths)
        else:
            yield from (json.loads(path.read_bytes()) for path in paths)


def _held(folder: Path) -> dict[str, int]:
    """Finished files of a folder and their bytes."""
    if is_remote(folder):
        return {name: size for name, _, size in entries(folder)}
    return {path.name: path.stat().st_size for path in folder.glob("[0-9]*")}


def _is_made(release: Release, record: dict, planned: Plan, held: dict[str, dict[str, int]]) -> bool:
    """Whether a finished shard is there in all sizes, and the files that it rejected are still as they were."""
    name = f"{record['shard']:06d}"
    for folder, size in record["sizes"].items():
        there = held[folder].get(f"{name}.tar"), f"{name}.idx" in held[folder]
        if size["samples"] and there != (size["bytes"], True):
            return False
    return all(fingerprint(release.root / planned.path(row)) == seen for row, _, seen in record["rejects"])
