"""timm's training beside ours: its parts in a loop as its train.py has it.

What the loop does in a step, by the script: the input in the memory format asked for, forward and loss under autocast,
the loss read as a number (which waits for the GPU), gradients cleared, the scaler's or a plain backward pass and step,
the schedule. No moving average of the weights, no clipping, no second wait for the GPU, as by default. Same network,
batch, precision, memory format, AdamW (fused, as ours) and binary cross-entropy as ours.

What stays unequal: timm's targets are one class number an image, which its loss turns into 0 and 1, ours a row of
findings with weights and gaps; timm exempts biases and norms from weight decay, we nothing; our classifier computes in
float32 under autocast; timm's images have three channels in uint8, three times the bytes of ours; its prefetcher
normalises on a stream of its own, the loop on cached batches on the one that trains.
"""

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_loader
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, NativeScaler

from benchmarks.options import Stage
from benchmarks.training.fed import LR, STEPS, WEIGHT_DECAY, Setting
from benchmarks.training.step_options import StepRun

LOOP = "timm's parts in a loop like its train.py"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Loop:
    """A step on (normalised images, class numbers) on the device."""

    def __init__(self, setting: Setting, classes: int, options: StepRun):
        torch.manual_seed(0)
        self._device = torch.device(options.device)
        self._format = torch.channels_last if setting.channels_last else torch.contiguous_format
        self._channels_last = setting.channels_last
        model = timm.create_model(options.arch, pretrained=False, num_classes=classes).to(self._device)
        model = model.to(memory_format=self._format).train()
        self._optimizer = create_optimizer_v2(model, "adamw", lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
        self._model = torch.compile(model, dynamic=False) if setting.compile else model
        self._loss = BinaryCrossEntropy(smoothing=0.0)
        self._autocast = contextlib.nullcontext
        if setting.precision in DTYPES:
            self._autocast = partial(torch.autocast, self._device.type, dtype=DTYPES[setting.precision])
        self._scaler = NativeScaler(self._device.type) if setting.precision == "fp16" else None
        self._schedule = CosineLRScheduler(self._optimizer, t_initial=STEPS, t_in_epochs=False)
        self._losses, self._times, self._steps, self._end = AverageMeter(), AverageMeter(), 0, time.time()

    def __call__(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        images, target = batch
        if self._channels_last:
            images = images.contiguous(memory_format=self._format)
        with self._autocast():
            loss = self._loss(self._model(images), target)
        self._losses.update(loss.item(), len(images))
        self._optimizer.zero_grad()
        if self._scaler is not None:
            self._scaler(loss, self._optimizer)
        else:
            loss.backward()
            self._optimizer.step()
        self._steps += 1
        self._times.update(time.time() - self._end)
        self._schedule.step_update(self._steps, metric=self._losses.avg)
        self._end = time.time()


def cached(images: list[torch.Tensor], device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """uint8 [B, 1, S, S] batches as timm's workers make them, on the device: uint8 [B, 3, S, S] and targets."""
    on_device = [each.to(device) for each in images]
    return [
        (each.expand(-1, 3, -1, -1).contiguous(), torch.zeros(len(each), dtype=torch.long, device=each.device))
        for each in on_device
    ]


def normalised(
    batches: list[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches in turn without end, each normalised when it is asked for as timm's prefetcher does: float32."""
    device = batches[0][0].device
    mean, std = (
        torch.tensor([255 * each for each in value], device=device).view(1, 3, 1, 1)
        for value in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    for images, target in cycle(batches):
        yield images.float().sub_(mean).div_(std), target


def loaded(folder: Path, stage: Stage, options: StepRun) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """timm's own loader over image files, without augmentation, its workers kept from epoch to epoch; without end."""
    loader = create_loader(
        create_dataset("", root=str(folder)), input_size=(3, stage.size, stage.size), batch_size=stage.batch,
        is_training=True, no_aug=True, num_workers=options.workers, pin_memory=options.device != "cpu",
        device=torch.device(options.device), use_multi_epochs_loader=True,
    )  # fmt: skip
    while True:
        yield from loader
