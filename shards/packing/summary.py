"""What a packing says of itself."""

from dataclasses import dataclass

from shards.packing.options import Part


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
    num_bytes: int
    images_this_run: int = 0
    seconds: float = 0.0
    already_finished: bool = False

    @classmethod
    def of(
        cls, info: dict, images_this_run: int = 0, seconds: float = 0.0, already_finished: bool = False
    ) -> "PackSummary":
        """Of a packed dataset with the description `info`."""
        counts, sizes = info["counts"], info["sizes"].values()
        return cls(
            planned=counts["planned"],
            packed=counts["packed"],
            rejected=counts["rejected"],
            converted=counts["converted"],
            shards=len(next(iter(sizes))["shards"]),
            num_bytes=sum(shard["bytes"] for size in sizes for shard in size["shards"]),
            images_this_run=images_this_run,
            seconds=seconds,
            already_finished=already_finished,
        )
