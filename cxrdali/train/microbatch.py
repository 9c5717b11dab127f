"""How many images at a time fit in the GPU's memory: found by trying real steps, the largest first.

It is searched without torch.compile, which would compile once for every size tried; a compiled step takes about the
same memory or less. There is no table of sizes found before: a search takes seconds, and what fits depends on the
versions of libraries and on what else lives on the GPU. A run remembers its own in config.json.
"""

import gc

import torch

from cxrdali.models.classifier import Classifier
from cxrdali.models.loss_module import LossModule
from cxrdali.runtime.device import Hardware
from cxrdali.train.step import Step, adamw, grad_scaler
from shards.errors import UserError

SPARE = 0.02  # of what the process may use stays free: an allocator at its limit frees and asks again in every step


def divisors(batch: int) -> list[int]:
    """Of the batch, the largest first: the micro-batches that it can be divided into."""
    return [part for part in range(batch, 0, -1) if batch % part == 0]


def largest_micro_batch(
    model: Classifier,
    loss: LossModule,
    hardware: Hardware,
    batch: int,
    pixels: int,
    findings: int,
    keeps_gradients: bool = False,
) -> int:
    """The largest part of `batch`, images of `pixels` a side, with which a step and a validation pass fit.

    model: in the mode in which it is trained (a frozen backbone is in evaluation mode). It and torch's generators are
    afterwards as they were before; optimizer and scaler are the search's own. keeps_gradients: training holds them from
    step to step, as several ranks do, and not from backward to step alone. Raises UserError if not even one image
    fits.
    """
    # on the CPU, to leave the GPU as empty as training finds it
    kept = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
    training = model.training
    devices = [] if hardware.device == "cpu" else [torch.device(hardware.device)]
    trained = [each for each in model.parameters() if each.requires_grad] if keeps_gradients else []
    try:
        held = [torch.empty_like(each) for each in trained]  # noqa: F841 -- to the end
        with torch.random.fork_rng(devices):
            for size in divisors(batch):
                model.train(training)
                if _fits(model, loss, hardware, batch, size, pixels, findings):
                    return size
    finally:
        model.zero_grad(set_to_none=True)
        model.load_state_dict(kept)
        model.train(training)
        _empty(hardware)
    raise UserError(
        f"the GPU is full at {pixels} px with 1 image at a time; use --checkpointing, a smaller --size or --arch, "
        "or stop what else runs on the GPU (nvidia-smi lists it)"
    )


def _fits(
    model: Classifier, loss: LossModule, hardware: Hardware, batch: int, size: int, pixels: int, findings: int
) -> bool:
    try:
        _try(model, loss, hardware, batch, size, pixels, findings)
        fits = True
    except torch.OutOfMemoryError:
        fits = False
    # after the except block: until there, the error holds the frames that hold the tensors
    model.zero_grad(set_to_none=True)
    _empty(hardware)
    return fits


def _try(
    model: Classifier, loss: LossModule, hardware: Hardware, batch: int, size: int, pixels: int, findings: int
) -> None:
    """Two steps, because the first has no moments of the optimizer yet, and one forward pass of validation."""
    spare = _spare(hardware)  # noqa: F841 -- held to the end
    step = Step(model, loss, adamw(model, lr=0.0, weight_decay=0.0), grad_scaler(hardware), hardware)
    images = torch.zeros(batch, 1, pixels, pixels, dtype=torch.uint8, device=hardware.device)
    wanted = torch.zeros(batch, findings, device=hardware.device)
    for _ in range(2):
        step(images, wanted, 0, size)
    model.eval()
    with torch.inference_mode(), hardware.autocast():
        model(images[:size])
    hardware.synchronize()


def _spare(hardware: Hardware) -> torch.Tensor | None:
    if hardware.device == "cpu":
        return None
    may_use = torch.cuda.get_per_process_memory_fraction(hardware.device) * torch.cuda.mem_get_info(hardware.device)[1]
    return torch.empty(int(SPARE * may_use), dtype=torch.uint8, device=hardware.device)


def _empty(hardware: Hardware) -> None:
    gc.collect()
    if hardware.device != "cpu":
        torch.cuda.empty_cache()
