"""How long the models would train here: a few real steps per size, and arithmetic."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cxrdali.data.augment import options_of
from cxrdali.data.loader import Loader
from cxrdali.data.targets import targets
from cxrdali.models.classifier import create
from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule
from cxrdali.models.tta import TTA
from cxrdali.runs.oversampling import chosen_findings, oversampled
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.options import AUTO
from cxrdali.studies.flow import Plan
from cxrdali.train.compiling import Static
from cxrdali.train.microbatch import BatchShape, largest_micro_batch
from cxrdali.train.step import Step, adamw, grad_scaler
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

STEPS, ENOUGH_SECONDS = 10, 8.0
CPU_IMAGES = 4  # at a time: the rate per image is about that of the whole batch, and the wait a tenth


@dataclass(frozen=True)
class Rate:
    """Images per second: trained (one step of the optimizer on a batch from the loader), predicted (one pass)."""

    trained: float
    predicted: float


def measure(settings: TrainSettings, dataset: PackedDataset, rows: np.ndarray, num_findings: int) -> Rate:
    """Train and predict a few batches with new weights; nothing is kept. A slow step ends the measurement early.

    A frozen backbone costs its forward pass, in training too.
    """
    hardware = Hardware.resolve(settings.runtime.device, settings.runtime.precision)
    hardware.begin()
    on_gpu = hardware.device != "cpu"
    model = create(settings.model_options(), num_findings)
    model.to(hardware.device).train()
    # all losses cost about the same
    loss = LossModule(LOSSES["bce"](), np.ones(num_findings), np.ones(num_findings)).to(hardware.device)
    micro_batch = settings.runtime.micro_batch or settings.optimizer.batch
    if micro_batch == AUTO and on_gpu:
        shape = BatchShape(settings.optimizer.batch, settings.data.size, num_findings)
        micro_batch = largest_micro_batch(model, loss, hardware, shape)
    micro_batch = min(micro_batch if on_gpu else min(CPU_IMAGES, settings.optimizer.batch), len(rows))
    options = replace(settings.loader_options(hardware.device), batch=micro_batch)
    forward = Static(model, micro_batch, micro_batch) if settings.runtime.compile is True else model
    train = Step(forward, loss, adamw(model, settings.optimizer.lr, 0.0), grad_scaler(hardware), hardware)
    wanted = torch.zeros(micro_batch, num_findings, device=hardware.device)
    augment = options_of(settings.data.flips, settings.data.cutout, settings.data.augment)
    loader = Loader(dataset, rows, options, shuffle=True, augment=augment, drop_last=True)

    def step(images: torch.Tensor) -> None:
        train(images, wanted, 0, micro_batch)

    def look(images: torch.Tensor) -> None:
        with torch.inference_mode(), hardware.autocast():
            forward(images)

    trained = None if settings.model.frozen else _rate(loader, step, hardware, STEPS if on_gpu else 1)
    model.eval()
    predicted = _rate(loader, look, hardware, STEPS if on_gpu else 1)
    return Rate(trained or predicted, predicted)


def _rate(loader: Loader, work, hardware: Hardware, warm_up: int) -> float:
    images, started, batch = 0, 0.0, 0
    while True:
        for taken, _ in loader:
            if batch == warm_up:
                hardware.synchronize()
                started = time.perf_counter()
            work(taken.to(hardware.device, non_blocking=True))
            batch += 1
            if batch > warm_up:
                images += len(taken)
                if batch - warm_up >= STEPS or time.perf_counter() - started > ENOUGH_SECONDS:
                    hardware.synchronize()
                    return images / (time.perf_counter() - started)


def epoch_images(plan: Plan, name: str) -> tuple[int, bool]:
    """Images in an epoch of a model, and whether that is all: what is oversampled by an AP is known only after it."""
    settings, _ = plan.models[name]
    if not settings.data.oversample and settings.data.oversample_below is None:
        return len(plan.train_rows), True
    source = settings.data.oversample_from and Path(settings.data.oversample_from)
    try:
        chosen, _ = chosen_findings(
            settings.data.oversample, settings.data.oversample_below, source, plan.labels.findings
        )
    except UserError:  # the run is not there or not finished
        return len(plan.train_rows), False
    rows = oversampled(plan.train_rows, targets(plan.labels, settings.data.uncertain), plan.labels.findings, chosen)
    return len(rows), True


def training_hours(rate: Rate, images: int, validated: int, epochs: int, cached: bool = False) -> float:
    """Of so many epochs of `images`, each followed by the validation of `validated` images in one pass.

    cached: a frozen backbone sees every image once, and what follows is seconds.
    """
    if cached:
        return min(epochs, 1) * (images + validated) / rate.predicted / 3600
    return epochs * (images / rate.trained + validated / rate.predicted) / 3600


def predicting_hours(rate: Rate, images: int, tta: str) -> float:
    """Of predicting `images`, once per pass of `tta`."""
    return len(TTA[tta]) * images / rate.predicted / 3600
