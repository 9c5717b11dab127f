"""Raw images copied from mapped memory to an output batch, cutout and flips on the way: a loop that numba compiles.

Imported by who loads raw images on their way (`cxrdali.data.raw`), and by nobody else: numba takes a while to load.
OpenCV's flips image by image, in as many threads, are held up by Python: a third of this at 224 px (benchmarks/LOG.md).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, config, njit, types
from numba.extending import intrinsic

from cxrdali.data.augment import SQUARES

if config.DISABLE_JIT:  # type: ignore[attr-defined]  # it is made of the environment
    raise ImportError("NUMBA_DISABLE_JIT is set")

_ARGUMENTS = (
    types.int64[:, ::1], types.uint8[:, :, ::1], types.float32[:, ::1], types.float32[:, ::1], types.int32[::1],
    types.int32[::1],
)  # fmt: skip


def compiled() -> Callable[..., None]:
    """`copy_augmented` in machine code, which runs without the GIL; compiled once on a machine, in about a second."""
    try:
        return njit(_ARGUMENTS, nogil=True, cache=True)(copy_augmented)
    except Exception:  # no folder for its cache, a full disk, a file cut by a crash: compiled in every process
        return njit(_ARGUMENTS, nogil=True)(copy_augmented)


@intrinsic
def _at(_typing: Any, address: Any) -> Any:
    """A pointer to the bytes at an address."""
    kind = types.CPointer(types.uint8)
    return kind(address), lambda context, builder, _, given: builder.inttoptr(given[0], context.get_value_type(kind))


def copy_augmented(images, out, anchor, shape, horizontal, vertical):
    """Fill places of `out`, uint8 [B, S, S], with images, int64 [2, n]: addresses of pixels (checked by who calls) and
    their places, and with the decisions of `Cutout` and `Flips`, [n, ...]."""
    # Whole rows by pointer, and unsigned places in them: views of arrays and places that might be negative keep the
    # compiler from copying 64 bytes at a time, which is all the difference.
    addresses, places, size = images[0], images[1], out.shape[1]
    width, last, to = np.uintp(size), np.uintp(size - 1), out.ctypes.data
    for image in range(len(addresses)):
        mirrored, upside_down = horizontal[image], vertical[image]
        begin, own = addresses[image], to + places[image] * size * size
        for y in range(size):
            source = carray(_at(begin + y * size), (size,))  # type: ignore[call-arg]
            row = size - 1 - y if upside_down else y
            target = carray(_at(own + row * size), (size,))
            if mirrored:
                for x in range(width):
                    target[x] = source[last - x]
            else:
                for x in range(width):
                    target[x] = source[x]
        for square in range(SQUARES):  # of the image before it was mirrored
            top, left = int(anchor[image, 2 * square]), int(anchor[image, 2 * square + 1])
            height, wide = int(shape[image, 2 * square]), int(shape[image, 2 * square + 1])
            if upside_down:
                top = size - top - height
            if mirrored:
                left = size - left - wide
            for y in range(max(top, 0), min(top + height, size)):
                target = carray(_at(own + y * size), (size,))  # type: ignore[call-arg]
                for x in range(max(left, 0), min(left + wide, size)):
                    target[x] = 0
