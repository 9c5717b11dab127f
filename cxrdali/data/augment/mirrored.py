"""Beyond its border an image goes on as its mirror image, the border itself not repeated (OpenCV's reflect 101)."""

from typing import Any


def mirrored(images: Any, first: int, stop: int) -> Any:
    """For places along an axis, also outside of 0 to S - 1, those within that have their values.

    Returns: int64 [stop - first], on the device of `images`, [B, 1, S, S].
    """
    size = images.shape[-1]
    places = images.new_ones(stop - first).cumsum(0) - 1 + first  # sums of bytes are int64
    period = max(2 * size - 2, 1)
    folded = places % period
    return folded.where(folded < size, period - folded)
