"""The memory of output batches on the CPU, used again as soon as nobody holds it."""

import sys

import numpy as np
import torch


class RecycledBuffers:
    """The memory of output batches on the CPU, by shape: no more than consumers held at a time.

    Fresh memory for 13 MB batches costs more in page faults than the copy into it. A buffer counts as free
    when only this list refers to it: a torch tensor made from a view of the array, or any slice of that
    tensor, keeps the array referenced.
    """

    def __init__(self):
        self._arrays: list[np.ndarray] = []
        self._idle = _references([np.empty(0)], 0)

    def __len__(self) -> int:
        return len(self._arrays)

    def take(self, like: np.ndarray) -> np.ndarray:
        """An array of the shape and dtype of another, which nobody else holds; its values are any."""
        for place in range(len(self._arrays)):
            if self._arrays[place].shape == like.shape and _references(self._arrays, place) == self._idle:
                return self._arrays[place]
        self._arrays.append(np.empty(like.shape, like.dtype))
        return self._arrays[-1]

    def images(self, count: int, size: int, most: int) -> torch.Tensor:
        """The same as a batch: uint8 [count, 1, size, size]. most: of all batches; each has room for so many."""
        return torch.from_numpy(self.take(np.broadcast_to(np.uint8(0), (most, 1, size, size)))[:count])

    def trim(self) -> None:
        """Let go of idle memory beyond the two batches that a consumer usually holds."""
        idle = [place for place in range(len(self._arrays)) if _references(self._arrays, place) == self._idle]
        for place in reversed(idle[2:]):
            del self._arrays[place]


def _references(arrays: list[np.ndarray], place: int) -> int:
    """How often an array in a list is referred to; Python versions count differently, so an idle one is the measure."""
    return sys.getrefcount(arrays[place])
