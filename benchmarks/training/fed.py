"""A training step as the trainer makes it, and how long it takes on batches that come from somewhere."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from timm.scheduler import CosineLRScheduler

from benchmarks.options import Stage
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Batch, Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.models.classifier import create
from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule
from cxrdali.models.options import ModelOptions
from cxrdali.runtime.device import Hardware
from cxrdali.train.compiling import Static
from cxrdali.train.step import Step, adamw, grad_scaler
from cxrdali.train.waiting import waiting_of
from shards.dataset.packed import PackedDataset

CACHED = "ours, cached"  # the trainer's step on batches that lie on the device
LEAD = 6  # batches taken before a run's clock starts: more than any loader has ready
EPOCH = 100_000  # rows: no run reaches an epoch's end
FINDINGS = 26
STEPS = 30_000  # of the schedule
LR, WEIGHT_DECAY = 1e-4, 1e-6
EFFICIENTNET = "tf_efficientnetv2_s.in21k_ft_in1k"  # the stage-training paper's network


@dataclass(frozen=True)
class Setting:
    """precision: bf16, fp16 or fp32; channels_last and compile as in `cxrdali train`."""

    precision: str
    channels_last: bool = True
    compile: bool = False


class TrainingStep:
    """What the trainer does with a batch: schedule, targets by row, the step, the loss summed on the device.

    Args:
        arch: timm's name of the network, which starts from random weights.
        stage: the images' side and how many make a batch.
        setting: precision, memory format, compiled or not.
        device: cpu or cuda[:N].
        num_rows: rows of the catalog that batches name; their targets are zero.
    """

    def __init__(self, arch: str, stage: Stage, setting: Setting, device: str, num_rows: int):
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self.hardware, self.micro_batch = Hardware(device, setting.precision), stage.batch
        wanted = ModelOptions(arch, stage.size, False, channels_last=setting.channels_last)
        self.model = create(wanted, FINDINGS).to(device).train()
        forward = Static(self.model, stage.batch, stage.batch) if setting.compile else self.model
        optimizer = adamw(self.model, lr=LR, weight_decay=WEIGHT_DECAY)
        self.loss = LossModule(LOSSES["bce"](), *[np.ones(FINDINGS)] * 2).to(device)
        self._step = Step(forward, self.loss, optimizer, grad_scaler(self.hardware), self.hardware)
        self._schedule, self._steps = CosineLRScheduler(optimizer, t_initial=STEPS, t_in_epochs=False), 0
        self._targets = torch.zeros(num_rows, FINDINGS, device=device)
        self._sum = 0.0

    def __call__(self, batch: Batch) -> None:
        """Train on a batch; on a GPU nothing waits for it."""
        device = self.hardware.device
        self._schedule.step_update(self._steps)
        self._steps += 1
        images = batch.images.to(device, non_blocking=True)
        wanted = self._targets[batch.rows.to(device, non_blocking=True)]
        self._sum += self._step(images, wanted, 0, self.micro_batch)


def batches_of(dataset: PackedDataset, options: LoaderOptions) -> Iterator[Batch]:
    """Augmented batches of the loader, without end; the loader is made at once."""
    rows = np.resize(np.flatnonzero(dataset.packed), EPOCH)
    loader = Loader(dataset, rows, options, shuffle=True, augment=AugmentOptions(), drop_last=True)

    def endless() -> Iterator[Batch]:
        while True:
            yield from loader

    return endless()


@dataclass(frozen=True)
class Trained:
    """A run of training steps: images/s; the share of its time in which the device had no step to do, as the trainer
    counts it; asking: milliseconds of the training thread for a batch."""

    rate: float
    waited_share: float
    asking: float


def trained(step: Callable, batches: Iterator, count: int, device: str) -> Trained:
    """`count` steps. On a GPU its own clock counts: to wait for it before would let the loader get ahead."""
    for _ in range(LEAD):
        step(next(batches))
    start, waiting, asking, images = _now(device), waiting_of(device), 0.0, 0
    for _ in range(count):
        waiting.ask()
        before = time.perf_counter()
        batch = next(batches)
        asking += time.perf_counter() - before
        waiting.got()
        step(batch)
        images += len(batch[0])
    end = _now(device)
    synchronize(device)
    seconds = end - start if isinstance(end, float) else start.elapsed_time(end) / 1000
    return Trained(images / seconds, waiting.take() / seconds, 1000 * asking / count)


def _now(device: str) -> float | torch.cuda.Event:
    """On a GPU: when it has done what it was given before."""
    if not device.startswith("cuda"):
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
