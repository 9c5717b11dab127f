"""Options of packing, and what a packing says of itself."""

import math
from dataclasses import dataclass, field

from shards.errors import UserError
from shards.packing.rendition import FITS, Size
from shards.packing.window import WINDOWS


@dataclass(frozen=True)
class PackOptions:
    """What the bytes of a packed dataset depend on, besides the release.

    sizes: stored sizes; fit: squash, pad or crop; quality: JPEG quality, 1 to 100; shard_images: most images
    per shard; seed: order of the studies; limit: pack only the first so many images of the plan (whole
    studies), for a trial; check_hashes: reject images that are not those of the release's SHA256SUMS.txt;
    allow_links: follow links that leave the release's folder; window: how 16-bit images become 8-bit, percentile,
    minmax or full (`shards.packing.window`).
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
            raise UserError("no size given; for example --sizes 224,320,384,512")
        if len(set(pixels)) < len(pixels):
            raise UserError(f"size {max(pixels, key=pixels.count)} is given twice; a size is stored once")
        if self.fit not in FITS:
            raise UserError(f"fit {self.fit!r}: choose one of {', '.join(FITS)}")
        if self.window not in WINDOWS:
            raise UserError(f"window {self.window!r}: choose one of {', '.join(WINDOWS)}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality {self.quality}: JPEG quality is 1 to 100")
        if self.shard_images < 1:
            raise UserError(f"shard images {self.shard_images}: at least 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed {self.seed}: 0 to 2**63 - 1")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit {self.limit}: at least 1 image")

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
            raise UserError(f"max reject fraction {self.max_reject_fraction}: 0 to 1, for example 0.01")
        if not (self.stall > 0 and math.isfinite(self.stall)):
            raise UserError(f"stall {self.stall}: more than 0 seconds")


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `count`: the shards that one of several packers makes."""

    index: int
    count: int

    @staticmethod
    def parse(text: str) -> "Part":
        """From 3/8. Raises UserError if it is no such thing."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UserError(f"part {text!r}: give I/N, part I of N, counted from 1; for example 3/8")
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
