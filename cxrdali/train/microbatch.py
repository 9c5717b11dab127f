"""How many images at a time fit in the GPU's memory: found by trying real steps, the largest first.

The first try is the whole batch. It is searched without torch.compile, which would compile once for every size tried;
a compiled step takes about the same memory or less. There is no table of sizes found before: a search takes seconds,
and what fits depends on the versions of libraries and on what else lives on the GPU. A run remembers its own in
config.json.
"""

import contextlib
import gc
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from cxrdali.data.loader import Loader
from cxrdali.models.classifier import Classifier
from cxrdali.models.loss_module import LossModule
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks
from cxrdali.runtime.full import OTHERS, finds_no_algorithm, is_full
from cxrdali.runtime.options import AUTO
from cxrdali.train.step import Step, adamw, grad_scaler
from shards.errors import UserError
from shards.words import counted

log = logging.getLogger(__name__)

ONE = f"use --checkpointing, a smaller --size or --arch, or {OTHERS}"
SPARE = 0.02  # of what the process may use stays free: an allocator at its limit frees and asks again in every step


@dataclass(frozen=True)
class BatchShape:
    """images: of the batch, or of a process's share of it; size: their side in pixels; num_findings: of the targets.
    copies: of the weights that training holds from step to step, and not from backward to step alone."""

    images: int
    size: int
    num_findings: int
    copies: int = 0


@dataclass(frozen=True)
class Trial:
    """What a run tries sizes with, before it trains. loaders: of training and of validation."""

    settings: TrainSettings
    hardware: Hardware
    ranks: Ranks
    model: Classifier
    loss: LossModule
    loaders: tuple[Loader, Loader]
    shape: BatchShape


def resolve(trial: Trial, stored: dict | None) -> tuple[int | None, dict | None]:
    """The setting (None: the batch); for auto the largest that fits, and what config.json remembers of the search.

    stored: `remembered` of a run that continues. On the same hardware and with the same need of memory it searches no
    more; one that never searched keeps what it has.
    """
    found, searched = _resolved(trial, stored)
    share, together = trial.shape.images, trial.ranks.world if trial.settings.runtime.sync_bn else 1
    norms = not trial.settings.model.frozen and any(isinstance(each, _BatchNorm) for each in trial.model.modules())
    if norms and found and found < share:
        sees, batch = found * together, share * together
        log.info(
            f"note: batch normalisation sees {sees} images at a time, not {batch}: other statistics than the batch's"
        )
    if trial.loss.loss.couples and (found or share) < share * trial.ranks.world:
        log.info(f"note: the loss {trial.loss.loss.name} compares {found or share} images at a time, not the batch's")
    return found, searched


def _resolved(trial: Trial, stored: dict | None) -> tuple[int | None, dict | None]:
    settings, hardware, share = trial.settings, trial.hardware, trial.shape.images
    if settings.runtime.micro_batch != AUTO:
        return settings.runtime.micro_batch, None
    if stored and stored["for"] is None and share % (stored["found"] or share) == 0:
        return stored["found"], None
    if hardware.device == "cpu":
        # its memory pages out, instead of saying that it is full
        return None, None if stored else {"found": None, "for": {"device": "cpu"}}
    memory = torch.cuda.mem_get_info(hardware.device)[1]
    needs = {"gpu": hardware.name, "memory_bytes": memory, "share": share} | {
        name: getattr(settings.runtime, name) for name in ("compile", "channels_last", "checkpointing")
    }
    if trial.ranks.world > 1:
        trial.ranks.total(torch.zeros((), device=hardware.device))  # NCCL's buffers are there from now on
    if stored and stored["for"] == needs:
        found, words = stored["found"], "found when the run began"
    else:
        for loader in trial.loaders:
            # DALI's buffers live on the same GPU from the first batch on; a rank may have none of validation's
            next(iter(loader), None)
        trial.model.to_train(settings.model.frozen)
        # gradients, where several ranks exchange them, and the moving average
        copies = (trial.ranks.world > 1) + (settings.optimizer.ema_decay is not None)
        found = largest_micro_batch(trial.model, trial.loss, hardware, replace(trial.shape, copies=copies))
        words = "the largest part of the batch that fits"
    found = trial.ranks.least(found)  # of all ranks, also of those that did not search: their GPUs may differ
    log.info(f"micro-batch {found} of {share}: {words}, {hardware.name}, {memory / 2**30:.0f} GiB")
    return found, {"found": found, "for": needs}


def remembered(out: Path) -> dict:
    """The search of the run in `out`, by its config.json; "for" is None of one that never searched: its micro-batch was
    given, or the whole batch was the default."""
    run = Run.open(out)
    return run.config.get("micro_batch") or {"found": run.settings.runtime.micro_batch, "for": None}


def divisors(batch: int) -> list[int]:
    """Of the batch, the largest first: the micro-batches that it can be divided into."""
    return [part for part in range(batch, 0, -1) if batch % part == 0]


def smaller_divisor(batch: int, micro_batch: int) -> int:
    """The largest micro-batch that divides the batch and is at most half of `micro_batch`."""
    return next(part for part in divisors(batch) if part <= max(1, micro_batch // 2))


def smaller(share: int, micro_batch: int) -> str:
    """What to do where `micro_batch` images at a time do not fit; share: of a batch, that this process trains on."""
    return ONE if micro_batch == 1 else f"use --micro-batch {smaller_divisor(share, micro_batch)} (the batch stays)"


def full_words(settings: TrainSettings, share: int) -> str:
    """That a step did not fit; share: images of a batch that this process trains on."""
    micro_batch = int(settings.runtime.micro_batch or share)
    return (
        f"the GPU is full at {settings.data.size} px with {counted(micro_batch, 'image')} at a time; "
        f"{smaller(share, micro_batch)}"
    )


@contextlib.contextmanager
def untouched(model: Classifier, hardware: Hardware) -> Iterator[None]:
    """The model's weights, statistics and mode, and torch's generators, are afterwards as before."""
    # on the CPU, to leave the GPU as empty as training finds it
    kept = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
    training = model.training
    try:
        with torch.random.fork_rng([] if hardware.device == "cpu" else [torch.device(hardware.device)]):
            yield
    finally:
        model.zero_grad(set_to_none=True)
        model.load_state_dict(kept)
        model.train(training)
        _empty(hardware)


def largest_micro_batch(model: Classifier, loss: LossModule, hardware: Hardware, shape: BatchShape) -> int:
    """The largest part of a batch with which a step and a validation pass fit.

    model: in the mode in which it is trained (a frozen backbone is in evaluation mode). It and torch's generators are
    afterwards as they were before; optimizer and scaler are the search's own. Raises UserError if not one image fits.
    """
    training = model.training
    trained = [each for each in model.parameters() if each.requires_grad]
    with untouched(model, hardware):
        held = [torch.empty_like(each) for each in trained * shape.copies]  # noqa: F841 -- to the end
        for micro_batch in divisors(shape.images):
            model.train(training)
            if _fits(model, loss, hardware, shape, micro_batch):
                return micro_batch
    raise UserError(f"the GPU is full at {shape.size} px with 1 image at a time; {ONE}")


def _fits(model: Classifier, loss: LossModule, hardware: Hardware, shape: BatchShape, micro_batch: int) -> bool:
    try:
        _try(model, loss, hardware, shape, micro_batch)
        fits = True
    except RuntimeError as error:
        if not is_full(error) or (micro_batch == 1 and finds_no_algorithm(error)):
            raise  # cuDNN cannot compute a layer: one image is little
        fits = False
    # after the except block: until there, the error holds the frames that hold the tensors
    model.zero_grad(set_to_none=True)
    _empty(hardware)
    return fits


def _try(model: Classifier, loss: LossModule, hardware: Hardware, shape: BatchShape, micro_batch: int) -> None:
    """Two steps, because the first has no moments of the optimizer yet, and one forward pass of validation."""
    spare = _spare(hardware)  # noqa: F841 -- held to the end
    step = Step(model, loss, adamw(model, lr=0.0, weight_decay=0.0), grad_scaler(hardware), hardware)
    images = torch.zeros(shape.images, 1, shape.size, shape.size, dtype=torch.uint8, device=hardware.device)
    wanted = torch.zeros(shape.images, shape.num_findings, device=hardware.device)
    for _ in range(2):
        step(images, wanted, 0, micro_batch)
    model.eval()
    with torch.inference_mode(), hardware.autocast():
        model(images[:micro_batch])
    hardware.synchronize()


def _spare(hardware: Hardware) -> torch.Tensor | None:
    if hardware.device == "cpu":
        return None
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)  # newer than torch 2.6
    may_use = fraction(hardware.device) * torch.cuda.mem_get_info(hardware.device)[1]
    return torch.empty(int(SPARE * may_use), dtype=torch.uint8, device=hardware.device)


def _empty(hardware: Hardware) -> None:
    gc.collect()
    if hardware.device != "cpu":
        torch.cuda.empty_cache()
