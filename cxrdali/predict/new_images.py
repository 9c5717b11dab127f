"""New images, of which nobody has made a pack: files are rendered while others are judged, or read one by one."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import pandas as pd

from cxrdali.predict.image_files import ImageFile
from cxrdali.predict.judge import Judge
from cxrdali.predict.options import ReadOptions
from cxrdali.predict.reading import Reading, read_study
from cxrdali.predict.reference import Reference
from cxrdali.predict.rendering import Rendered, Rendering
from cxrdali.predict.verdicts import Verdicts
from cxrdali.predictions import Predictions
from shards.decoding.decoded import RejectedImage
from shards.errors import UserError
from shards.progress import progress_bar
from shards.words import counted

log = logging.getLogger(__name__)


def judge_files(judge: Judge, files: Sequence[ImageFile], jobs: int) -> Verdicts:
    """Judge images in their order, as many at a time as `judge.batch`.

    Args:
        judge: With its runs.
        files: At least one.
        jobs: Files that are decoded at the same time, each in a process.

    Returns:
        Also if every image was rejected. Memory holds a row per image, and no more images than three batches.

    Raises:
        UserError: A run does not say how its images were packed, a disk fails, or the network gives NaN, infinity or
            the same logits for images that differ.
    """
    batch: list[tuple[ImageFile, Rendered]] = []
    paths: list[str] = []
    ids: list[tuple[str, str]] = []
    rejects: list[tuple[str, str]] = []
    logits = [np.zeros((0, len(judge.findings)), np.float32)]
    looks: set[bytes] = set()  # of images that differ, two at least

    def flush() -> None:
        pixels = [np.stack(column) for column in zip(*(made.each for _, made in batch), strict=True)]
        logits.append(judge.judge(pixels, [str(file.path) for file, _ in batch]))
        for file, made in batch:
            if len(looks) < 2:
                looks.add(made.pixels.tobytes())
            study = made.tags.study_id if made.tags else ""
            paths.append(str(file.path))
            ids.append((file.image_id, study or file.image_id))
        batch.clear()

    log.info(f"{counted(len(files), 'image')} {judge.words}, decoded in {counted(min(jobs, len(files)), 'process')}")
    for file, made in _rendered(judge, files, jobs, judge.batch):
        if isinstance(made, RejectedImage):
            rejects.append((str(file.path), str(made)))
        else:
            batch.append((file, made))
        if len(batch) == judge.batch:
            flush()
    if batch:
        flush()
    values = np.concatenate(logits)
    if len(looks) > 1 and (values == values[:1]).all():
        raise UserError(f"{judge.run.path}: gives images that differ the same logits; train it again")
    known = pd.DataFrame(ids, columns=["image_id", "study_id"], dtype=str).assign(view="")
    table = Predictions(known, judge.findings, values, judge.provenance)
    return Verdicts(tuple(paths), table, judge.decide(values), judge.thresholds, tuple(rejects))


def read_files(
    judge: Judge, reference: Reference | None, files: Sequence[ImageFile], options: ReadOptions, jobs: int
) -> tuple[list[Reading], dict[str, str]]:
    """A reading of each image or study, in the order of the files, and the reasons of those that were rejected.

    With `options.study`, a study is what has one StudyInstanceUID; of files that are no DICOM, what lies in a folder.
    jobs: as of `judge_files`.
    """
    studies: dict[str, list[Rendered]] = {}
    rejected: dict[str, str] = {}
    for file, image in _rendered(judge, files, jobs, 1):
        if isinstance(image, RejectedImage):
            rejected[file.image_id] = str(image)
            continue
        name = file.image_id
        if options.study:
            name = f"Study {getattr(image.tags, 'study_id', '') or PurePath(str(file.path)).parent}"
        studies.setdefault(name, []).append(replace(image, name=name, image_id=file.image_id))
    with progress_bar("reading", len(studies), " readings", leave=False) as bar:
        readings = []
        for images in studies.values():
            readings.append(read_study(judge, reference, images, options, images[0].name))
            bar.update()
    return readings, rejected


def _rendered(
    judge: Judge, files: Sequence[ImageFile], jobs: int, batch: int
) -> Iterator[tuple[ImageFile, Rendered | RejectedImage]]:
    """Each file as the judge's runs see it, two batches ahead."""
    jobs = min(jobs, len(files))
    with Rendering.of(*judge.runs, threads=jobs) as rendering:
        coming = rendering.render_each((file.path for file in files), 2 * batch + jobs)
        with progress_bar("images", len(files), " images", leave=False) as bar:
            for pair in zip(files, coming, strict=True):
                yield pair
                bar.update()
