"""Logits of a model over a loader: validation and prediction share it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cxrdali.data.loader import Loader
from cxrdali.data.studies import StudyBatch, pixels
from cxrdali.models.tta import TTA
from cxrdali.predictions import mean_logit
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks
from cxrdali.runtime.full import told_if_full
from shards.errors import UserError
from shards.progress import progress_bar
from shards.words import counted


@dataclass(frozen=True)
class Inference:
    """How logits are computed.

    micro_batch: images on the device at a time (None: a batch); tta: a name of `cxrdali.models.tta.TTA`; progress: the
    bar's description (None: no bar); check: called after every batch, may raise; ranks: processes that share the work;
    fix: what to do about NaN, where no other precision helps; fix_full: about a full GPU.
    """

    micro_batch: int | None = None
    tta: str = "none"
    progress: str | None = None
    check: Callable[[], None] = lambda: None
    ranks: Ranks = field(default_factory=Ranks)
    fix: str = "start from other weights"
    fix_full: str = "use a smaller --batch"


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
        UserError: The GPU is full, or the network gives NaN or infinity for an image (in any pass of TTA).
    """
    how = how or Inference()
    ranks, check = how.ranks, how.check
    model.eval()
    loader.set_epoch(0)
    places = loader.own_places() if ranks.world > 1 else np.arange(len(loader.rows))
    result = torch.empty(len(TTA[how.tta]), len(places), num_findings, device=hardware.device)
    at = batches = 0
    with progress_bar(how.progress or "", len(places), " images", leave=False, hidden=not how.progress) as bar:
        for images, rows in loader:
            batches += 1
            most = min(how.micro_batch or len(images), len(images))
            full = f"the GPU is full with {counted(most, 'image')} of {loader.options.size} px at a time"
            with told_if_full(f"{full}; {how.fix_full}"):
                for chunk in images.to(hardware.device, non_blocking=True).split(most):
                    in_passes(model, chunk, how.tta, hardware, result[:, at : at + len(chunk)])
                    at += len(chunk)
            bar.update(len(rows))
            check()
        if batches < -(-len(loader) // ranks.world):
            check()  # as often as the ranks that had a batch more: they may ask one another
    assert at == len(places), (at, len(places))
    values = result.cpu().numpy()
    parts = ranks.gather((places, *merged(values)))
    if parts is None:
        return None
    whole = np.empty((len(loader.rows), num_findings), dtype=np.float32)
    sound = np.empty(len(loader.rows), dtype=bool)
    for places, part, finite in parts:
        whole[places], sound[places] = part, finite
    if not sound.all():
        raise _not_finite(loader, sound, hardware, how)
    return whole


@torch.inference_mode()
def in_passes(
    model: torch.nn.Module, images: torch.Tensor | StudyBatch, tta: str, hardware: Hardware, into: torch.Tensor
) -> None:
    """Logits of uint8 [B, 1, S, S], or of studies, on the device in every pass of a TTA: float32 into [P, B, F]."""
    for number, each in enumerate(TTA[tta]):
        moved = images.after(each) if isinstance(images, StudyBatch) else each(images)
        with hardware.autocast():
            output = model(moved)
        into[number] = output.float()


def merged(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the passes' logits [P, n, F], the logit of their mean probability, float32 [n, F], and whether an image's are
    finite in each pass, bool [n]: a mean would hide an infinity."""
    with np.errstate(all="ignore"):
        mean = values[0] if len(values) == 1 else mean_logit(values)
    return mean, np.isfinite(values).all(axis=(0, 2))


def _not_finite(loader: Loader, sound: np.ndarray, hardware: Hardware, how: Inference) -> UserError:
    """sound: bool [n], of the loader's images."""
    image = loader.dataset.of_rows(loader.rows[[np.argmin(sound)]], "image_id")["image_id"].iloc[0]
    fix = how.fix if hardware.precision == "fp32" else f"use --precision fp32, or {how.fix}"
    return UserError(
        f"the network gives NaN or infinity for image {image!r}, {(~sound).sum():,} of {len(sound):,} in all, in "
        f"{hardware.precision}; {fix}"
    )


def constant_words(values: np.ndarray, findings: Sequence[str], loader: Loader) -> tuple[bool, str]:
    """Whether images that differ all have the same logits, so that the network does not see them; and what is to be
    said of that, or of findings with one logit for all images."""
    same = (values == values[:1]).all(axis=0)
    if not same.any() or not _differ(loader):
        return False, ""
    what = "every finding" if same.all() else ", ".join(name for name, each in zip(findings, same, strict=True) if each)
    return bool(same.all()), f"all {len(values):,} images have the same logit for {what}"


def _differ(loader: Loader) -> bool:
    """Whether two of the loader's images differ; reads on until they do."""
    loader.set_epoch(0)
    first = None
    for images, _ in loader:
        first = pixels(images)[:1] if first is None else first
        if (pixels(images) != first).any():
            return True
    return False
