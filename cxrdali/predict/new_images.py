"""Predictions of new images, of which nobody has made a pack: files are rendered while others are judged."""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

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
        Also if every image was rejected. Memory holds a row per image, and no more images than three batches.

    Raises:
        UserError: A run does not say how its images were packed, a disk fails, or the network gives NaN, infinity or
            the same logits for images that differ.
    """
    jobs, batch = min(jobs, len(files)), []
    paths: list[str] = []
    ids: list[tuple[str, str]] = []
    judged: list[Judged] = []
    rejects: list[tuple[str, str]] = []
    looks: set[bytes] = set()  # of images that differ, two at least

    def flush(batch: list[tuple[ImageFile, Rendered]]) -> None:
        pixels = [np.stack(column) for column in zip(*(made.each for _, made in batch), strict=True)]
        judged.append(judge.judge(pixels, [str(file.path) for file, _ in batch]))
        if len(looks) < 2:
            looks.update(made.pixels.tobytes() for _, made in batch)
        for file, made in batch:
            study = made.tags.study_id if made.tags else ""
            paths.append(str(file.path))
            ids.append((file.image_id, study or file.image_id))

    with Rendering.of(*judge.runs, threads=jobs) as rendering:
        log.info(f"{counted(len(files), 'image')} {judge.words}, decoded in {counted(jobs, 'process')}")
        coming = rendering.render_each((file.path for file in files), 2 * judge.batch + jobs)
        with progress_bar("judging", len(files), " images", leave=False) as bar:
            for file, made in zip(files, coming, strict=True):
                if isinstance(made, RejectedImage):
                    rejects.append((str(file.path), str(made)))
                else:
                    batch.append((file, made))
                if len(batch) == judge.batch:
                    flush(batch)
                    batch = []
                bar.update()
            if batch:
                flush(batch)
    logits = np.concatenate([np.zeros((0, len(judge.findings)), np.float32), *(each.logits for each in judged)])
    if len(looks) > 1 and (logits == logits[:1]).all():
        raise UserError(f"{judge.run.path}: gives images that differ the same logits; train it again")
    known = pd.DataFrame(ids, columns=["image_id", "study_id"], dtype=str).assign(view="")
    table = Predictions(known, judge.findings, logits, judge.provenance)
    decisions = None if judge.rules is None else np.array([row for each in judged for row in each.decisions])
    return Verdicts(tuple(paths), table, decisions, judge.thresholds, tuple(rejects))
