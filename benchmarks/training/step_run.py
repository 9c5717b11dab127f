"""The measuring part of benchmarks.step: data, contenders, and their runs in turn."""

import argparse
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.loading.demand import EPOCH, LEAD, Trained, trained
from benchmarks.loading.loader import Stage
from benchmarks.training import step_memory, step_timm
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Batch, Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.models.classifier import ModelOptions, create
from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule
from cxrdali.runs.settings import settings_of
from cxrdali.runtime.device import Hardware
from cxrdali.train.build import schedule
from cxrdali.train.step import Step, adamw, grad_scaler
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.rendition import Size
from shards.releases.open import open_release
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

CACHED, LOADER = "ours, cached", "ours, loader"
TIMM_CACHED, TIMM_READY, TIMM_LOADER = "timm, cached", "timm, cached normalised", "timm, loader"
KEPT = 4  # cached batches
FINDINGS = 26
LOOP = "the trainer's step"
STEPS_PER_EPOCH = 1000  # of the schedule


@dataclass(frozen=True)
class Setting:
    """precision: bf16, fp16 or fp32; channels_last and compile as in `cxrdali train`."""

    precision: str
    channels_last: bool
    compile: bool


def words_of(setting: Setting, base: Setting) -> str:
    """The name of the ceiling with one setting changed."""
    if setting.channels_last != base.channels_last:
        return "ours, NHWC" if setting.channels_last else "ours, NCHW"
    if setting.compile != base.compile:
        return "ours, compiled" if setting.compile else "ours, not compiled"
    return f"ours, {setting.precision}"


@dataclass
class Contender:
    """step: a training step on what `batches` gives; loop: whose. memory: filled by the runs, in MiB: on a GPU the most
    that torch held in a run, without the other contenders' weights (None on a CPU), and the process's own memory.
    missing: why it is not measured, if it is not."""

    words: str
    step: Callable
    batches: Iterator
    setting: Setting
    loop: str
    memory: dict = field(default_factory=dict)
    missing: str | None = None


def prepare(options: argparse.Namespace, folder: Path) -> tuple[PackedDataset, dict[int, Path]]:
    """Images packed at the stages' sizes, and by size a folder of the same files, for timm: all in the page cache."""
    sizes = sorted({stage.size for stage in options.stages})
    cores = len(os.sched_getaffinity(0))
    write_release(folder / "release", SyntheticOptions(options.studies, max(sizes)), jobs=cores)
    wanted = PackOptions(tuple(Size(size) for size in sizes))
    pack(open_release(folder / "release"), folder / "pack", wanted, jobs=cores)
    dataset, files = PackedDataset.open(folder / "pack"), {}
    for size in sizes:
        files[size] = folder / f"files{size}"
        mapped = MappedSize(dataset.stored(size))
        for split in ("train", "validation"):  # timm's names; its script wants both
            (files[size] / split / "image").mkdir(parents=True)
            rows = np.flatnonzero(dataset.packed)
            for row in rows if split == "train" else rows[:8]:
                (files[size] / split / "image" / f"{row}.jpg").write_bytes(mapped[row].tobytes())
    return dataset, files


class TrainingStep:
    """What the trainer does with a batch: schedule, targets by row, the step, the loss summed on the device."""

    def __init__(self, stage: Stage, setting: Setting, dataset: PackedDataset, options: argparse.Namespace):
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self.hardware, self.micro_batch = Hardware(options.device, setting.precision), stage.batch
        device = self.hardware.device
        model_options = ModelOptions(options.arch, stage.size, False, channels_last=setting.channels_last)
        self.model = create(model_options, FINDINGS).to(device).train()
        # one graph for the stage's one shape, and not the other stages'
        forward = torch.compile(self.model, dynamic=False) if setting.compile else self.model
        optimizer = adamw(self.model, lr=1e-4, weight_decay=1e-6)
        self.loss = LossModule(LOSSES["bce"](), *[np.ones(FINDINGS)] * 2).to(device)
        self._step = Step(forward, self.loss, optimizer, grad_scaler(self.hardware), self.hardware)
        settings = settings_of(stage=1, size=stage.size, batch=stage.batch, lr=1e-4)
        self._schedule, self._steps = schedule(optimizer, settings, STEPS_PER_EPOCH), 0
        self._targets = torch.zeros(len(dataset.catalog), FINDINGS, device=device)
        self._sum = 0.0

    def __call__(self, batch: Batch) -> None:
        device = self.hardware.device
        self._schedule.step_update(self._steps)
        self._steps += 1
        images = batch.images.to(device, non_blocking=True)
        wanted = self._targets[batch.rows.to(device, non_blocking=True)]
        self._sum += self._step(images, wanted, 0, self.micro_batch)


def batches_of(dataset: PackedDataset, stage: Stage, options: argparse.Namespace) -> Iterator[Batch]:
    """Augmented batches of the loader, without end."""
    rows = np.resize(np.flatnonzero(dataset.packed), EPOCH)
    wanted = LoaderOptions(stage.size, stage.batch, options.threads, options.decode, options.device)
    loader = Loader(dataset, rows, wanted, shuffle=True, augment=AugmentOptions(), drop_last=True)
    while True:
        yield from loader


def contenders(
    dataset: PackedDataset,
    files: Path,
    stage: Stage,
    base: Setting,
    changed: list[Setting],
    options: argparse.Namespace,
) -> list[Contender]:
    """All of a stage; one that trains alone shares its network with the one that is fed."""
    loading = step_timm.loaded(files / "train", stage, options)  # its workers fork before DALI's threads start
    next(loading)
    fed = batches_of(dataset, stage, options)
    kept = [Batch(images.clone(), rows) for images, rows in (next(fed) for _ in range(KEPT))]
    ours, theirs = TrainingStep(stage, base, dataset, options), step_timm.Loop(stage, base, FINDINGS, options)
    colour = step_timm.cached([each.images for each in kept], options)
    ready = list(islice(step_timm.normalised(colour), KEPT))
    found = [
        Contender(CACHED, ours, cycle(kept), base, LOOP),
        Contender(LOADER, ours, fed, base, LOOP),
        Contender(TIMM_CACHED, theirs, step_timm.normalised(colour), base, step_timm.LOOP),
        Contender(TIMM_READY, theirs, cycle(ready), base, step_timm.LOOP),
        Contender(TIMM_LOADER, theirs, loading, base, step_timm.LOOP),
    ]  # fmt: skip
    for setting in changed:
        other = TrainingStep(stage, setting, dataset, options)
        found.append(Contender(words_of(setting, base), other, cycle(kept), setting, LOOP))
    return found


def interleaved(
    found: list[Contender], stage: Stage, options: argparse.Namespace, hardware: Hardware
) -> dict[str, list[Trained]]:
    """Runs in turn, after one of each that is thrown away and sizes the others.

    A contender for which the GPU's memory is not enough is left out from there on, with all its runs: it is told in its
    `missing`, and the others go on."""
    counts, runs = {}, {one.words: [] for one in found}
    for one in found:
        if _fitting(one, 1, stage, hardware) and (sizing := _fitting(one, LEAD, stage, hardware)):  # the first compiles
            counts[one.words] = max(1, round(sizing.rate * options.seconds / stage.batch))
    for _ in range(options.rounds):
        for one in found:
            if one.missing is None and (run := _fitting(one, counts[one.words], stage, hardware)):
                runs[one.words].append(run)
    return {one.words: runs[one.words] for one in found if one.missing is None}


def _fitting(one: Contender, count: int, stage: Stage, hardware: Hardware) -> Trained | None:
    """A run; None, with `missing` set and the weights let go, if it does not fit."""
    try:
        return _run(one, count, stage, hardware)
    except Exception as error:  # the compiler's are of its own kinds
        one.missing = step_memory.does_not_fit(error)
        if one.missing is None:
            raise
    # after the except block: until there, the error holds the frames that hold the tensors
    one.step = one.batches = None
    gc.collect()
    if hardware.device != "cpu":
        torch.cuda.empty_cache()
    return None


def _run(one: Contender, count: int, stage: Stage, hardware: Hardware) -> Trained:
    device, on_gpu = hardware.device, hardware.device != "cpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    found = trained(one.step, one.batches, stage.batch, count, device)
    own = None
    if on_gpu:  # above what all contenders' weights and moments hold between runs
        own = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    one.memory = {"step_mib": own, "rss_mib": psutil.Process().memory_info().rss / 2**20}
    return found


def release() -> None:
    """What is left of a stage goes before the next."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
