"""Options of packing, which import nothing heavy: a command's --help reads them."""

import math
from dataclasses import asdict, dataclass

from shards.errors import UserError
from shards.renditions.options import RenditionOptions

ENGINES = ("local", "dask")  # who makes the shards (`shards.packing.engine`, `shards.packing.cluster`)


@dataclass(frozen=True)
class PackOptions(RenditionOptions):
    """What the bytes of a packed dataset depend on, besides the release.

    Attributes:
        shard_images: Most images per shard, at least 1.
        seed: Of the order of the studies, 0 to 2**63 - 1.
        limit: Pack only the first so many images of the plan (whole studies), for a trial; None: all.
        check_hashes: Reject images that are not those of the release's SHA256SUMS.txt.
        allow_links: Follow links that leave the release's folder.
    """

    shard_images: int = 4096
    seed: int = 0
    limit: int | None = None
    check_hashes: bool = False
    allow_links: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.shard_images < 1:
            raise UserError(f"shard images {self.shard_images}: at least 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed {self.seed}: 0 to 2**63 - 1")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit {self.limit}: at least 1 image")

    def as_json(self) -> dict:
        return {**asdict(self), "sizes": [size.text for size in self.sizes]}


@dataclass(frozen=True)
class PackLimits:
    """What is tolerated, without influence on any byte: it may differ from one run to the next.

    Attributes:
        max_reject_fraction: Share of the planned images that may be rejected, judged once, when all are read.
        allow_subject_overlap: Pack labels that have a subject in two splits.
        stall: Seconds in which an image must be decoded, else it is rejected, and read, else the run ends.
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
