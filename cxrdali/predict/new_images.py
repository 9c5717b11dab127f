"""Predictions of new images, of which nobody has made a pack: files are rendered while others are judged."""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrdali.models.tta import TTA
from cxrdali.predict.image_files import ImageFile
from cxrdali.predict.judge import Judge, Judged
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
        Also if every image was rejected. Memory holds a row per image, and no more images than two batches.

    Raises:
        UserError: A run does not say how its images were packed, a disk fails, or the network gives NaN, infinity or
            the same logits for images that differ.
    """
    judged, made, rejects = [], [], []
    batch: list[tuple[ImageFile, Rendered]] = []
    same = _Same()

    def flush() -> None:
        each = [np.stack(column) for column in zip(*(rendered.each for _, rendered in batch), strict=True)]
        made.append(judge.judge(each, [str(file.path) for file, _ in batch]))
        same.add(each[0], made[-1].logits)
        judged.extend((file, rendered.tags) for file, rendered in batch)
        batch.clear()

    jobs = min(jobs, len(files))
    with Rendering.of(*judge.runs, threads=jobs) as rendering:
        log.info(_words(judge, len(files), jobs))
        coming = rendering.render_each((file.path for file in files), 2 * judge.batch + jobs)
        with progress_bar("judging", len(files), " images", leave=False) as bar:
            for file, found in zip(files, coming, strict=True):
                if isinstance(found, RejectedImage):
                    rejects.append((str(file.path), str(found)))
                else:
                    batch.append((file, found))
                if len(batch) == judge.batch:
                    flush()
                bar.update()
            if batch:
                flush()
    same.check(judge)
    return _verdicts(judge, judged, made, rejects)


def _verdicts(judge: Judge, judged: list, made: list[Judged], rejects: list[tuple[str, str]]) -> Verdicts:
    empty = np.zeros((0, len(judge.findings)), np.float32)
    logits = np.concatenate([empty, *(each.logits for each in made)])
    decisions = None
    if judge.thresholds is not None:
        decisions = np.concatenate([empty.astype(bool), *(each.decisions for each in made)])
    ids = pd.DataFrame(
        {
            "image_id": [file.image_id for file, _ in judged],
            "study_id": [(tags.study_id if tags else "") or file.image_id for file, tags in judged],
            "view": [""] * len(judged),
        }
    )
    table = Predictions(ids, judge.findings, logits, judge.provenance)
    return Verdicts(tuple(str(file.path) for file, _ in judged), table, decisions, judge.thresholds, tuple(rejects))


class _Same:
    """Whether images differ and their logits do not."""

    def __init__(self) -> None:
        self._pixels: np.ndarray | None = None
        self._logits: np.ndarray | None = None
        self._images_differ = self._logits_differ = False

    def add(self, pixels: np.ndarray, logits: np.ndarray) -> None:
        if self._pixels is None or self._logits is None:
            self._pixels, self._logits = pixels[:1].copy(), logits[:1].copy()
        self._images_differ = self._images_differ or bool((pixels != self._pixels).any())
        self._logits_differ = self._logits_differ or bool((logits != self._logits).any())

    def check(self, judge: Judge) -> None:
        if self._images_differ and not self._logits_differ:
            raise UserError(
                f"{judge.run.path}: all images have the same logits, though the images differ: the network does not "
                "see them; train it again"
            )


def _words(judge: Judge, images: int, jobs: int) -> str:
    """What is going to be judged, in a line."""
    sizes = ", ".join(dict.fromkeys(str(run.settings.data.size) for run in judge.runs))
    tta, hardware = judge.options.tta, judge.hardware
    return (
        f"{counted(images, 'image')} at {sizes} px, {hardware.precision} on {hardware.device}, decoded in "
        f"{counted(jobs, 'process')}"
        + (f", TTA {tta}: {counted(len(TTA[tta]), 'pass')}" if tta != "none" else "")
        + (f", mean probability of {counted(len(judge.runs), 'run')}" if len(judge.runs) > 1 else "")
    )
