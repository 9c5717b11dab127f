"""Batches on a GPU: DALI's output and raw images from pinned memory as torch's tensors, augmented there.

All of this is queued on torch's current stream of that device when the batch is asked for, which is the stream that
uses it; nothing waits for the GPU. Whoever reads a batch in another stream lets that one wait and calls
`record_stream`, as with any tensor of torch's.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from cxrdali.data.augment import Augmentation, Decisions, in_order


def from_dali(output: Any) -> torch.Tensor:
    """DALI's output of a batch, uint8 [B, S, S, 1], as a tensor over the same memory, on whichever device it is.

    DALI has made the current stream wait for the batch (`Lane.run`), and takes the memory back no sooner than the
    tensor is gone and the device has done what was queued before that.
    """
    return torch.from_dlpack(output.as_tensor())


def room(count: int, size: int, device: torch.device) -> torch.Tensor:
    """Memory of the CPU for a batch that goes to the device: uint8 [count, 1, size, size], pinned for a GPU.

    torch's allocator of pinned memory records an event with each copy from it, and gives the memory to nobody
    before that event: a batch may be let go as soon as its copy is queued, and its pages are used again and again.
    """
    return torch.empty((count, 1, size, size), dtype=torch.uint8, pin_memory=device.type == "cuda")


def sent(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Values on the device; for a GPU from pinned memory, by a copy that is queued and not waited for."""
    held = torch.from_numpy(values)
    return (held.pin_memory() if device.type == "cuda" else held).to(device, non_blocking=True)


def augmented(images: torch.Tensor, augment: Iterable[Augmentation], made: Decisions) -> torch.Tensor:
    """Images uint8 [B, 1, S, S] with the decisions carried out on their device."""
    decided = {name: sent(values, images.device) for name, values in made.items()}
    for each in in_order(augment):
        images = each.on_device(images, decided)
    return images
