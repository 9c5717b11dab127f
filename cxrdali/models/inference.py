"""Logits of a model over a loader: validation and prediction share it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from cxrdali.data.loader import Loader
from cxrdali.models.tta import TTA
from cxrdali.predictions import mean_logit
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks
from shards.errors import UserError
from shards.progress import progress_bar


@dataclass(frozen=True)
class Inference:
    """How logits are computed.

    micro_batch: images on the device at a time (None: a batch); tta: a name of `cxrdali.models.tta.TTA`; progress: the
    bar's description (None: no bar); check: called after every batch, may raise; ranks: processes that share the work.
    """

    micro_batch: int | None = None
    tta: str = "none"
    progress: str | None = None
    check: Callable[[], None] = lambda: None
    ranks: Ranks = field(default_factory=Ranks)


@torch.inference_mode()
def logits(
    model: torch.nn.Module, loader: Loader, num_findings: int, hardware: Hardware, how: Inference | None = None
) -> np.ndarray | None:
    """Logits of a loader's images, in its order.

    Nothing is copied to the CPU before the end: a copy per batch would wait for the GPU every time.

    Returns:
        float32 [n, F]; with TTA the logit of the mean probability of its passes. With several ranks each takes its
        batches (the loader's rank and world), as they are with one, and rank 0 returns all: None on the others.

    Raises:
        UserError: The GPU is full.
    """
    how = how or Inference()
    ranks, check = how.ranks, how.check
    model.eval()
    loader.set_epoch(0)
    passes = TTA[how.tta]
    places = loader.own_places() if ranks.world > 1 else np.arange(len(loader.rows))
    result = torch.empty(len(passes), len(places), num_findings, device=hardware.device)
    at = batches = 0
    with progress_bar(how.progress or "", len(places), " images", leave=False, hidden=not how.progress) as bar:
        for images, rows in loader:
            batches += 1
            images = images.to(hardware.device, non_blocking=True)
            for chunk in images.split(how.micro_batch or len(images)):
                try:
                    for number, each in enumerate(passes):
                        moved = each(chunk)
                        with hardware.autocast():
                            output = model(moved)
                        result[number, at : at + len(chunk)] = output.float()
                except torch.OutOfMemoryError as error:
                    raise UserError(
                        f"the GPU is full with {len(chunk)} images of {loader.options.size} px at a time; "
                        "predict with a smaller --batch, train with a smaller --micro-batch"
                    ) from error
                at += len(chunk)
            bar.update(len(rows))
            check()
        if batches < -(-len(loader) // ranks.world):
            check()  # as often as the ranks that had a batch more: they may ask one another
    assert at == len(places), (at, len(places))
    values = result.cpu().numpy()
    parts = ranks.gather((places, values[0] if len(values) == 1 else mean_logit(values)))
    if parts is None:
        return None
    merged = np.empty((len(loader.rows), num_findings), dtype=np.float32)
    for places, part in parts:
        merged[places] = part
    return merged
