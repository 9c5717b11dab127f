"""A synthetic release in the layout of MIMIC-CXR-JPG 2.0.0, for demonstrations, tests and benchmarks.

The layout, the proportions of views, studies per subject, splits and findings are those of the real release
and of CXR-LT (shards.synthetic.facts); the pictures are generated (`radiograph`), of no real patient. A release does
not depend on the number of processes.

Everything is made in OUT/.synthetic/ and gets its place when all is complete and on the medium, the metadata last: a
release that was cut short has none and is read by nobody. `.synthetic/` says with which options it was begun, so the
same command knows what a killed one left, and begins anew.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import joblib
import numpy as np
import simplejpeg

from shards import __version__
from shards.errors import UserError
from shards.progress import progress_bar
from shards.storage.files import (
    cannot_write,
    check_inside,
    json_bytes,
    only_one,
    sync_folder,
    sync_tree,
    write_bytes,
)
from shards.synthetic.patient import Anatomy, Sign, sample_anatomy, sample_sign
from shards.synthetic.plan import Purpose, Study, SyntheticOptions, plan_release, stream
from shards.synthetic.radiograph import draw
from shards.synthetic.tables import METADATA, write_tables
from shards.workers import end_with, run

QUALITY = 95  # JPEG quality of MIMIC-CXR-JPG
CHUNK = 16  # studies per task: a second of work at 512 pixels
WORK = ".synthetic"


@dataclass(frozen=True)
class SyntheticSummary:
    """What was written: counts, the pictures' bytes without the tables, and the seconds it took."""

    images: int
    studies: int
    subjects: int
    num_bytes: int
    seconds: float


def write_release(out: Path, options: SyntheticOptions, jobs: int = 1) -> SyntheticSummary:
    """Write the release into `out`, with `jobs` processes.

    Equal options give equal bytes in every file, for any `jobs`. `out` is empty or absent, or holds what a killed call
    with the same options left. Raises UserError if it holds anything else, or cannot be written.
    """
    if jobs < 1:
        raise UserError(f"jobs is {jobs!r}; give 1 or more processes")
    out = Path(out).absolute()
    work, start = out / WORK, time.perf_counter()
    _check_out(out)
    studies = plan_release(options)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with only_one(work / "lock", f"writing a synthetic release into {out}"):
            _begin(out, options)
            tmp = Path(tempfile.mkdtemp(dir=work / "tmp"))
            try:
                total = _write_pictures(tmp, options, studies, jobs, out)
                write_tables(tmp, options, studies)
                _publish(tmp, out)
            finally:
                shutil.rmtree(work / "tmp", ignore_errors=True)
            for name in ("lock", "options.json"):  # in this order: a kill in between is not the end of the same command
                (work / name).unlink()
            work.rmdir()
    except OSError as error:
        raise cannot_write(out, error) from error
    images, subjects = sum(len(study.images) for study in studies), studies[-1].subject + 1
    return SyntheticSummary(images, len(studies), subjects, total, time.perf_counter() - start)


def _check_out(out: Path) -> None:
    """Raises UserError if `out` holds anything but an unfinished release."""
    check_inside(out, out / WORK, out / WORK / "tmp")
    others = not out.is_dir() or any(path.name != WORK for path in out.iterdir())
    if out.exists() and others and not (out / WORK / "options.json").exists():
        raise UserError(f"{out}: exists and is not an empty folder; name another folder or remove this one")


def _begin(out: Path, options: SyntheticOptions) -> None:
    """Say what is made here, and remove what a killed call left. Raises UserError if that had other options."""
    begun, wanted = out / WORK / "options.json", json_bytes({"made_by": f"cxrdali {__version__}", **asdict(options)})
    if begun.is_file() and begun.read_bytes() != wanted:
        raise UserError(
            f"{out}: holds the beginning of another synthetic release, whose options are in {begun}; give the same, or "
            "another folder, or remove this one"
        )
    shutil.rmtree(out / WORK / "tmp", ignore_errors=True)
    write_bytes(begun, wanted)
    (out / WORK / "tmp").mkdir(exist_ok=True)


def _write_pictures(tmp: Path, options: SyntheticOptions, studies: list[Study], jobs: int, out: Path) -> int:
    """Returns their bytes."""
    chunks = [studies[i : i + CHUNK] for i in range(0, len(studies), CHUNK)]
    tasks = (joblib.delayed(_write_studies)(tmp, options, chunk, os.getpid()) for chunk in chunks)
    total, images = 0, sum(len(study.images) for study in studies)
    with progress_bar("synthetic release", images, " images") as bar:
        for count, size in run(tasks, jobs, str(out)):
            total += size
            bar.update(count)
    return total


def _publish(tmp: Path, out: Path) -> None:
    """Move what is complete to its place, the metadata last; what a killed call had moved is replaced."""
    sync_tree(tmp)
    for made in sorted(tmp.iterdir(), key=lambda path: path.name == METADATA):
        final = out / made.name
        check_inside(out, final)
        if final.is_dir():
            shutil.rmtree(final)
        made.replace(final)
        sync_folder(out)


def _write_studies(out: Path, options: SyntheticOptions, studies: list[Study], parent: int) -> tuple[int, int]:
    """Draw and write the pictures of `studies`; returns their number and bytes. Ends when `parent` has died."""
    end_with(parent)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the processes share the cores already
    try:
        size = 0
        for study in studies:
            size += _write_study(out / study.folder, options, study)
        return sum(len(study.images) for study in studies), size
    finally:
        cv2.setNumThreads(threads)


def _write_study(folder: Path, options: SyntheticOptions, study: Study) -> int:
    folder.mkdir(parents=True)
    total = 0
    for image, picture in zip(study.images, draw_study(options, study), strict=True):
        data = simplejpeg.encode_jpeg(picture[..., None], quality=QUALITY, colorspace="GRAY", fastdct=False)
        (folder / f"{image.dicom_id}.jpg").write_bytes(data)
        total += len(data)
    return total


def draw_study(options: SyntheticOptions, study: Study) -> Iterator[np.ndarray]:
    """The pictures of one study in order, each uint8 (height, width)."""
    anatomy, signs = _patient(options.seed, study)
    for number, image in enumerate(study.images):
        rng = stream(options.seed, Purpose.PICTURE, study.index, number)
        yield draw(options.shape, image.lateral, study.portable, anatomy, signs, rng)


def _patient(seed: int, study: Study) -> tuple[Anatomy, list[Sign]]:
    anatomy = sample_anatomy(stream(seed, Purpose.SUBJECT, study.subject, 1))
    rng = stream(seed, Purpose.SIGNS, study.index)
    return anatomy, [sample_sign(finding, rng) for finding in sorted(study.findings - {"No Finding"})]
