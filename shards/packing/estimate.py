"""A dry run: how many images, bytes and minutes a packing takes."""

import time
from collections import Counter
from dataclasses import dataclass
from functools import partial

import numpy as np

from shards.decoding.decoded import RejectedImage
from shards.packing.job import checked_plan, confined_to
from shards.packing.make_shard import packed_image
from shards.packing.options import PackLimits, PackOptions
from shards.packing.tasks import planned_images
from shards.releases.release import Release
from shards.renditions.decoder import Decoder
from shards.renditions.source import kind_of


@dataclass(frozen=True)
class PackEstimate:
    """What packing would make, from `sampled` images packed in memory.

    num_bytes: by stored size; minutes: for the given jobs; rejected: sampled images by reason.
    """

    images: int
    studies: int
    subjects: int
    shards: int
    num_bytes: dict[str, int]
    minutes: float
    sampled: int
    rejected: dict[str, int]


def estimate(
    release: Release, options: PackOptions, jobs: int = 1, samples: int = 32, limits: PackLimits | None = None
) -> PackEstimate:
    """Counts from the plan; bytes and time from images spread evenly over it. Writes nothing."""
    limits = limits or PackLimits()
    planned, inside = checked_plan(release, options, limits), confined_to(release, options)
    rows = planned.rows()
    picked = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(samples, len(rows))).astype(int))]
    stored, rejected = np.zeros(len(options.sizes)), Counter[str]()
    started = time.perf_counter()
    with Decoder(partial(packed_image, options), limits.stall) as decode:
        for image in planned_images(picked, [{}] * len(picked)):
            try:
                images, _ = decode(release.root / image.path, inside, image.sha256, image.inverted)
            except RejectedImage as error:
                rejected[kind_of(str(error))] += 1
                continue
            # per image: data padded to 512 bytes, its header, the .json with its header
            stored += [-(-len(image) // 512) * 512 + 512 + 1536 for image in images]
    seconds = (time.perf_counter() - started) / max(1, len(picked))
    per_image = stored / max(1, len(picked) - sum(rejected.values()))
    return PackEstimate(
        images=len(rows),
        studies=int(rows.groupby(["subject_id", "study_id"]).ngroups),
        subjects=int(rows["subject_id"].nunique()),
        shards=planned.shards,
        num_bytes={s.folder: int(each * len(rows)) for s, each in zip(options.sizes, per_image, strict=True)},
        minutes=seconds * len(rows) / jobs / 60,
        sampled=len(picked),
        rejected=dict(rejected),
    )
