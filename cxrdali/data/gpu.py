"""Batches on a GPU: DALI's output and raw images from pinned memory as torch's tensors, augmented there.

All of this is queued on torch's current stream when a batch is asked for, which is the stream that will use it; nothing
waits for the GPU. Whoever reads a batch in another stream lets that one wait and calls `record_stream`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from cxrdali.data.augment import Augmentation, Decisions, in_order


def from_dali(output: Any) -> torch.Tensor:
    """DALI's output of a batch, uint8 [B, S, S, 1], as a tensor over the same memory.

    DALI has made the current stream wait for it (`Lane.run`), and takes the memory back no sooner than the tensor is
    gone and the device has done what was queued by then.
    """
    return torch.from_dlpack(output.as_tensor())


def room(count: int, size: int, device: torch.device) -> torch.Tensor:
    """Memory for a batch that goes to the device: uint8 [count, 1, size, size] on the CPU, pinned for a GPU.

    torch's allocator of pinned memory records an event with each copy from it and gives the memory to nobody before
    that: a batch may be let go as soon as its copy is queued, and a few blocks serve an epoch.
    """
    return torch.empty((count, 1, size, size), dtype=torch.uint8, pin_memory=device.type == "cuda")


def sent(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Values on the device; for a GPU from pinned memory, by a copy that is queued and not waited for."""
    held = torch.from_numpy(values)
    return (held.pin_memory() if device.type == "cuda" else held).to(device, non_blocking=True)


def augmented(
    images: torch.Tensor, augment: Iterable[Augmentation], made: Decisions, device: torch.device
) -> torch.Tensor:
    """Images uint8 [B, 1, S, S], of the device or of `room`, on the device and with the decisions carried out."""
    decided = {name: sent(values, device) for name, values in made.items()}
    images = images.to(device, non_blocking=True)
    for each in in_order(augment):
        places = each.touched(made)
        if places is None:
            images = each.on_device(images, decided)
        elif len(places):  # known here, so that the device is not asked how many there are
            at = sent(places, device)
            part = {name: decided[name][at] for name in each.decides}
            images = images.index_copy(0, at, each.on_device(images[at], part))
    return images
