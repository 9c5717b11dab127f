"""Logits of a model over a loader: validation and prediction share it."""

from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from cxrdali.hardware import Hardware
from cxrdali.loader import Loader
from cxrdali.pooling import mean_logit
from cxrdali.tta import TTA
from shards.errors import DataError


@torch.inference_mode()
def logits(
    model: torch.nn.Module,
    loader: Loader,
    findings: int,
    hardware: Hardware,
    *,
    micro_batch: int | None = None,
    tta: str = "none",
    progress: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """float32 [n, F] in the loader's order; with tta, the logit of the mean probability of its passes (`cxrdali.tta`).

    `check` is called after every batch and may raise. `progress` is the bar's description (None: no bar). Nothing is
    copied to the CPU before the end: a copy per batch would wait for the GPU every time.
    """
    model.eval()
    loader.set_epoch(0)
    passes = TTA[tta]
    result = torch.empty(len(passes), len(loader.rows), findings, device=hardware.device)
    at = 0
    with tqdm(total=len(loader.rows), unit=" images", desc=progress, disable=progress is None, leave=False) as bar:
        for images, rows in loader:
            images = images.to(hardware.device, non_blocking=True)
            for chunk in images.split(micro_batch or len(images)):
                try:
                    for number, each in enumerate(passes):
                        moved = each(chunk)
                        with hardware.autocast():
                            output = model(moved)
                        result[number, at : at + len(chunk)] = output.float()
                except torch.OutOfMemoryError as error:
                    raise DataError(
                        f"the GPU is full with {len(chunk)} images of {loader.options.size} px at a time; "
                        "predict with a smaller --batch, train with a smaller --micro-batch"
                    ) from error
                at += len(chunk)
            bar.update(len(rows))
            check()
    assert at == len(loader.rows), (at, len(loader.rows))
    values = result.cpu().numpy()
    return values[0] if len(values) == 1 else mean_logit(values)
