"""A run over several image sizes: "224x10@256,320x10@128" is 10 epochs at 224 px in batches of 256, then 10 at 320."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shards.errors import UserError

FORM = "SIZExEPOCHS[@BATCH],..."
_SEGMENT = re.compile(r"([1-9]\d*)x([1-9]\d*)(?:@([1-9]\d*))?")


@dataclass(frozen=True)
class Segment:
    """Epochs of one size. size: in pixels; batch: images per step, None where the text names none; start: epochs of the
    run before it."""

    size: int
    epochs: int
    batch: int | None
    start: int = 0

    @property
    def end(self) -> int:
        """Epochs of the run that are done when it ends."""
        return self.start + self.epochs

    def __str__(self) -> str:
        return f"{self.size}x{self.epochs}" + (f"@{self.batch}" if self.batch else "")


def segments(text: str) -> tuple[Segment, ...]:
    """Raises UserError for another form, or for sizes that do not grow."""
    found: list[Segment] = []
    for part in map(str.strip, text.split(",")):
        matched = _SEGMENT.fullmatch(part)
        if matched is None:
            raise UserError(
                f"schedule {text!r}: {part!r} is not SIZExEPOCHS or SIZExEPOCHS@BATCH, as in 224x10@256,320x10@128"
            )
        size, epochs, batch = int(matched[1]), int(matched[2]), int(matched[3]) if matched[3] else None
        if found and size <= found[-1].size:
            raise UserError(
                f"schedule {text!r}: {size} px after {found[-1].size} px; give every size once, from small to large"
            )
        found.append(Segment(size, epochs, batch, found[-1].end if found else 0))
    return tuple(found)


def with_batches(text: str, batch: int | None, usual: Mapping[int, int]) -> str:
    """The schedule with a batch for every size: its own, else `batch`, else the usual one of that size.

    Raises UserError for a size that has none of these.
    """
    found = []
    for each in segments(text):
        chosen = each.batch or batch or usual.get(each.size)
        if chosen is None:
            raise UserError(
                f"schedule {text!r}: {each.size} px has no usual batch; give its own, as {each}@64, or --batch for all"
            )
        found.append(f"{each.size}x{each.epochs}@{chosen}")
    return ",".join(found)


def at(every: Sequence[Segment], epoch: int) -> Segment:
    """The segment that an epoch, from 0, is of; after the last epoch, the last."""
    return next((each for each in every if epoch < each.end), every[-1])


def epochs_left(every: Sequence[Segment], done: int, now: Segment) -> float:
    """How many epochs of the size of `now` are left after `done` of the run, other sizes counted by their pixels: an
    estimate, since time does not grow quite as pixels do."""
    return sum(max(0, each.end - max(done, each.start)) * (each.size / now.size) ** 2 for each in every)
