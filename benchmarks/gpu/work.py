"""What the sections of `benchmarks.gpu` share: data, loaders, and steps."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from benchmarks import datasets
from benchmarks.options import Stage
from benchmarks.training.fed import EFFICIENTNET, Setting, TrainingStep
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Batch, Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.runtime.device import Hardware
from shards.dataset.packed import PackedDataset

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
ON_GPU = DEVICE != "cpu"
STAGES = (Stage(224, 256), Stage(320, 128), Stage(512, 48))  # the stage-training paper's
MODES = ("cpu", "hybrid", "mixed") if ON_GPU else ("cpu",)  # of decoding
STEPS = 20  # of a timed run
TINY = "test_efficientnet"  # for questions about the flow of work


@dataclass(frozen=True)
class Work:
    """folder: of the data that the first section makes, and of whatever else is written."""

    folder: Path

    def make(self) -> int:
        """Pack synthetic images, at 224 px also raw; few without a GPU. Returns their number."""
        sizes, studies = ((64, 224, 320, 512), 400) if ON_GPU else ((64, 224), 40)
        release = datasets.synthetic(self.folder / "release", studies, max(sizes))
        datasets.packed(release, self.folder / "raw", (224,), raw=True)
        return int(datasets.packed(release, self.folder / "pack", sizes).packed.sum())

    def dataset(self, raw: bool = False) -> PackedDataset:
        return PackedDataset.open(self.folder / ("raw" if raw else "pack"))

    def loader(self, options: LoaderOptions, raw: bool = False, augment: bool = True) -> Loader:
        """Every image once an epoch; without augmentation in order, and the last batch may be smaller."""
        data = self.dataset(raw)
        how = {"shuffle": True, "augment": AugmentOptions(side=0.15), "drop_last": True} if augment else {}
        return Loader(data, np.flatnonzero(data.packed), options, seed=5, **how)

    def step(self, stage: Stage, arch: str | None = None, setting: Setting | None = None) -> TrainingStep:
        """The trainer's, by default of the default network in the precision that training has."""
        setting = setting or Setting(Hardware.resolve(DEVICE, "auto").precision)
        return TrainingStep(arch or EFFICIENTNET, stage, setting, DEVICE, len(self.dataset().catalog))

    def run(self, *command: object, **changes: object) -> tuple[subprocess.CompletedProcess, float]:
        """`python -m` of a command in the folder, and its seconds; changes: of how `subprocess.run` is called."""
        how, started = {"cwd": self.folder, "capture_output": True, "text": True}, time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *map(str, command)], **how | changes)
        return done, round(time.perf_counter() - started, 1)


def options(size: int, batch: int, decode: str = "auto", device: str = DEVICE, **more: int) -> LoaderOptions:
    """Of a loader onto the device."""
    return LoaderOptions(size, batch, decode=decode, device=device, **more)


def black(stage: Stage) -> Batch:
    """A batch on the device whose pixels are 0."""
    images = torch.zeros(stage.batch, 1, stage.size, stage.size, dtype=torch.uint8, device=DEVICE)
    return Batch(images, torch.zeros(stage.batch, dtype=torch.int64))


def kept_of(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Four of them in turn, in memory of their own."""
    return cycle([Batch(each.images.clone(), each.rows) for each in islice(batches, 4)])
