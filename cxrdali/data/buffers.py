"""The memory in which batches are handed over on the CPU, used again once nobody holds it."""

import sys

import numpy as np
import torch

from cxrdali.data.augment import Decisions, carry_out


class RecycledBuffers:
    """Buffers by shape, no more than consumers held at a time.

    Fresh memory for 13 MB batches costs more in page faults than the copy into it. A buffer counts as free
    when only this list refers to it: a torch tensor made from a view of the array, or any slice of that
    tensor, keeps the array referenced.
    """

    def __init__(self):
        self._arrays: list[np.ndarray] = []
        self._idle = _references([np.empty(0)], 0)

    def copy(self, source: np.ndarray, made: Decisions | None) -> torch.Tensor:
        """A batch uint8 [B, S, S, 1] in memory of its own, augmented on the way if there are decisions."""
        for place in range(len(self._arrays)):
            if self._arrays[place].shape == source.shape and _references(self._arrays, place) == self._idle:
                break
        else:
            # at the end of an epoch the shape is smaller: a few buffers of each shape, no more than were held
            self._arrays.append(np.empty_like(source))
            place = len(self._arrays) - 1
        if made is None:
            np.copyto(self._arrays[place], source)
        else:
            carry_out(source, made, self._arrays[place])
        return torch.from_numpy(self._arrays[place])

    def trim(self) -> None:
        """Let go of idle memory beyond the two batches that a consumer usually holds."""
        idle = [place for place in range(len(self._arrays)) if _references(self._arrays, place) == self._idle]
        for place in reversed(idle[2:]):
            del self._arrays[place]


def _references(arrays: list[np.ndarray], place: int) -> int:
    """How often an array in a list is referred to; Python versions count differently, so an idle one is the measure."""
    return sys.getrefcount(arrays[place])
