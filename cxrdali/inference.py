"""Logits of a model over a loader: validation and prediction share it."""

from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from cxrdali.hardware import Hardware
from cxrdali.loader import Loader
from shards.errors import DataError


@torch.inference_mode()
def logits(
    model: torch.nn.Module,
    loader: Loader,
    findings: int,
    hardware: Hardware,
    *,
    micro_batch: int | None = None,
    progress: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """float32 [n, F] in the loader's order. `check` is called after every batch and may raise.

    `progress` is the bar's description (None: no bar). Nothing is copied to the CPU before the end: a copy per
    batch would wait for the GPU every time.
    """
    model.eval()
    loader.set_epoch(0)
    result = torch.empty(len(loader.rows), findings, device=hardware.device)
    at = 0
    with tqdm(total=len(loader.rows), unit=" images", desc=progress, disable=progress is None, leave=False) as bar:
        for images, rows in loader:
            images = images.to(hardware.device, non_blocking=True)
            for chunk in images.split(micro_batch or len(images)):
                try:
                    with hardware.autocast():
                        output = model(chunk)
                except torch.OutOfMemoryError as error:
                    raise DataError(
                        f"the GPU is full with {len(chunk)} images of {loader.options.size} px at a time; "
                        "predict with a smaller --batch, train with a smaller --micro-batch"
                    ) from error
                result[at : at + len(chunk)] = output.float()
                at += len(chunk)
            bar.update(len(rows))
            check()
    assert at == len(loader.rows), (at, len(loader.rows))
    return result.cpu().numpy()
