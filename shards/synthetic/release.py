"""A synthetic release in the layout of MIMIC-CXR-JPG 2.0.0, for demonstrations, tests and benchmarks.

The layout, the proportions of views, studies per subject, splits and findings are those of the real release
and of CXR-LT (shards.synthetic.facts); the pictures are generated (`radiograph`), of no real patient. A release does
not depend on the number of processes.

The tables are written after the last picture: a release that was cut short has no metadata and is read by
nobody.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import joblib
import numpy as np
import simplejpeg
from tqdm import tqdm

from shards.errors import UserError
from shards.synthetic.patient import Anatomy, Sign, sample_anatomy, sample_sign
from shards.synthetic.plan import Purpose, Study, SyntheticOptions, plan_release, stream
from shards.synthetic.radiograph import draw
from shards.synthetic.tables import write_tables
from shards.workers import run

QUALITY = 95  # JPEG quality of MIMIC-CXR-JPG
CHUNK = 16  # studies per task: a second of work at 512 pixels


@dataclass(frozen=True)
class SyntheticSummary:
    """What was written: counts, the pictures' bytes without the tables, and the seconds it took."""

    images: int
    studies: int
    subjects: int
    num_bytes: int
    seconds: float


def write_release(out: Path, options: SyntheticOptions, jobs: int = 1) -> SyntheticSummary:
    """Write the release into `out`, which must be empty or absent, with `jobs` processes.

    Equal options give equal bytes in every file, for any `jobs`. Raises UserError if `out` holds anything.
    """
    if jobs < 1:
        raise UserError(f"jobs is {jobs!r}; give 1 or more processes")
    _check_empty(Path(out))
    out = Path(out).absolute()
    start = time.perf_counter()
    studies = plan_release(options)
    chunks = [studies[i : i + CHUNK] for i in range(0, len(studies), CHUNK)]
    tasks = (joblib.delayed(_write_studies)(out, options, chunk) for chunk in chunks)
    total = 0
    images = sum(len(study.images) for study in studies)
    with tqdm(total=images, unit="image", desc="synthetic release", disable=None) as bar:
        for count, size in run(tasks, jobs, str(out)):
            total += size
            bar.update(count)
    write_tables(out, options, studies)
    subjects = studies[-1].subject + 1
    return SyntheticSummary(images, len(studies), subjects, total, time.perf_counter() - start)


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not an empty folder; name another folder or remove this one")


def _write_studies(out: Path, options: SyntheticOptions, studies: list[Study]) -> tuple[int, int]:
    """Draw and write the pictures of `studies`; returns their number and bytes."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the processes share the cores already
    try:
        size = sum(_write_study(out / study.folder, options, study) for study in studies)
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
