"""One packing: what is packed, to where and how, and what came of it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from shards.dataset.pixels import LARGE_PATIENT
from shards.packing.make_shard import WORK
from shards.packing.options import PackLimits, PackOptions, Part
from shards.packing.plan import Plan, plan
from shards.releases import checksums
from shards.releases.checks import check_links, check_subjects
from shards.releases.release import Release
from shards.storage.location import Location
from shards.storage.places import Storage, storage_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackJob:
    """out: the folder of the packed dataset, here or in a bucket; part: make only the shards of one part, beside other
    processes that make other parts, and publish nothing."""

    release: Release
    out: Location
    options: PackOptions
    limits: PackLimits = PackLimits()
    part: Part | None = None

    @property
    def storage(self) -> Storage:
        return storage_of(self.out)

    @property
    def work(self) -> Path:
        """Where unfinished files and the lock are, on this machine."""
        return self.storage.work_folder(WORK)


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

    rejected: images by reason; converted: images by kind (RGB, 16-bit, ...), those that were not 8-bit gray baseline;
    same_pixels, same_pixels_of_patient: images with the pixels of an image of another patient, or of the same alone.
    """

    planned: int
    packed: int
    rejected: dict[str, int]
    converted: dict[str, int]
    shards: int
    num_bytes: int
    images_this_run: int = 0
    seconds: float = 0.0
    already_finished: bool = False
    same_pixels: int = 0
    same_pixels_of_patient: int = 0

    @classmethod
    def of(cls, info: dict, **this_run: Any) -> "PackSummary":
        """Of a packed dataset with the description `info`, and the fields of this run."""
        counts, sizes = info["counts"], info["sizes"].values()
        return cls(
            **{name: counts[name] for name in ("planned", "packed", "rejected")},
            converted=counts.get("converted", {}),
            **{name: counts.get(name, 0) for name in ("same_pixels", "same_pixels_of_patient")},
            shards=len(next(iter(sizes))["shards"]),
            num_bytes=sum(shard["bytes"] for size in sizes for shard in size["shards"]),
            **this_run,
        )


def checked_plan(release: Release, options: PackOptions, limits: PackLimits) -> Plan:
    """Every check that needs no image, then the plan, with the published hashes if they are to be checked."""
    if not options.allow_links:
        check_links(release, limits.max_reject_fraction)
    if not limits.allow_subject_overlap:
        for table in release.labels:
            check_subjects(table, release.images)
    images = release.images
    _say_large_patient(images)
    if options.check_hashes:
        images = images.assign(sha256=checksums.of_images(release))
    return plan(images, options.shard_images, options.seed, options.limit)


def _say_large_patient(images: pd.DataFrame) -> None:
    """A column of one value, or of a hospital, in place of the patients is a usual mistake."""
    largest = int(images["subject_id"].value_counts().iloc[0]) if len(images) else 0
    if largest > max(1, LARGE_PATIENT * len(images)):
        log.info(
            "one patient has %s of %s images (%.1f %%); if that is not so, the column of patients is a wrong one",
            f"{largest:,}", f"{len(images):,}", 100 * largest / len(images),
        )  # fmt: skip


def confined_to(release: Release, options: PackOptions) -> str | None:
    """The release's real path, which no link may leave; None if links are followed anywhere."""
    return None if options.allow_links else storage_of(release.root).real_path()
