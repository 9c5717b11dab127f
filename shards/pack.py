"""From a release to a packed dataset: plan, independent shard tasks, one publication.

Working state lives in PACK/.packing and is removed at publication: options.json (what the folder is being
packed with), records/NNNNNN.json (one finished shard each), tmp/ (files being written), progress, lock.
A shard is finished when its record exists; the record is written after the shard's files have their final
names, so a rerun redoes whatever lacks a record, to the same bytes. dataset.json is written last of all.
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from shards.errors import DataError
from shards.files import json_bytes, only_one, remove_parts, sha256_file, write_bytes
from shards.make_shard import PROGRESS, PROGRESS_STEP, WORK, ShardTask, findings_of, make_shard, record_path
from shards.packed import DATASET, PackedDataset
from shards.plan import plan
from shards.publish import publish
from shards.release import Release
from shards.rendition import FITS, RejectedImage, Size, renditions


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
    if out.resolve().is_relative_to(release.root.resolve()):
        raise DataError(f"{out}: lies in the release, which is only read; give an --out folder outside {release.root}")
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
        made = _make_missing(release, out, options, rows, jobs, progress)
        info = publish(release, out, options, rows, identity)
        shutil.rmtree(out / WORK, ignore_errors=True)
    return PackSummary(**_summary(info), images_this_run=made, seconds=time.perf_counter() - started)


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
    versions = {"simplejpeg": version("simplejpeg"), "opencv": cv2.__version__}
    inputs = {}
    for path in release.inputs:
        inputs[path.name] = sha256_file(path)
    for table in release.labels:
        for path in table.inputs:
            inputs[f"{table.name}/{path.name}"] = sha256_file(path)
    return {"options": options.as_json(), "inputs": inputs, "encoders": versions}


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


def _finished(out: Path, identity: dict) -> PackSummary:
    dataset = PackedDataset.open(out)  # refuses a damaged description, a missing or cut shard
    _refuse_difference(out, dataset.info, identity)
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
        "shards": len(next(iter(info["sizes"].values()))["shards"]),
        "bytes": sum(shard["bytes"] for size in info["sizes"].values() for shard in size["shards"]),
    }


def _make_folder(out: Path) -> None:
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made ({error.strerror}); give another --out folder") from error
    strangers = sorted(p.name for p in out.iterdir() if p.name != WORK)
    if strangers and DATASET not in strangers and not (out / WORK / "options.json").exists():
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
    (out / WORK / PROGRESS).write_bytes(b"")


# ---------------------------------------------------------------- shards


def _make_missing(
    release: Release, out: Path, options: PackOptions, rows: pd.DataFrame, jobs: int, progress: bool
) -> int:
    """Make every shard that has no record; returns the images read in this run."""
    for size in options.sizes:
        (out / size.folder).mkdir(exist_ok=True)
    missing = [s for s in range(int(rows["shard"].max()) + 1) if not record_path(out, s).exists()]
    bounds = np.searchsorted(rows["shard"].to_numpy(), [*missing, *(s + 1 for s in missing)]).reshape(2, -1)
    count = int((bounds[1] - bounds[0]).sum())
    # a folder of this run's own: what a killed run's workers still do, they do in a folder that is gone
    tmp = Path(tempfile.mkdtemp(dir=out / WORK / "tmp"))
    tasks = (
        joblib.delayed(make_shard)(
            ShardTask(release.root, out, tmp, options.sizes, options.fit, options.quality, shard, os.getpid()),
            rows.iloc[start:stop],
            findings_of(release.labels, rows["image_id"].iloc[start:stop]),
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
    marks = out / WORK / PROGRESS
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
