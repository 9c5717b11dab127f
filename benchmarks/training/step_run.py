"""The measuring part of `benchmarks.training.step`: data, baselines, and their runs in turn."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks import datasets
from benchmarks.options import Stage
from benchmarks.training import step_memory, step_timm
from benchmarks.training.fed import CACHED, FINDINGS, LEAD, Setting, Trained, TrainingStep, batches_of, trained
from benchmarks.training.step_options import StepRun
from cxrdali.data.loader import Batch
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset

LOADER = "ours, loader"
TIMM_CACHED, TIMM_LOADER = "timm, cached", "timm, loader"
KEPT = 4  # cached batches
LOOP = "the trainer's step"


def words_of(setting: Setting, base: Setting) -> str:
    """The name of the ceiling with one setting changed."""
    if setting.channels_last != base.channels_last:
        return "ours, NHWC" if setting.channels_last else "ours, NCHW"
    if setting.compile != base.compile:
        return "ours, compiled" if setting.compile else "ours, not compiled"
    return f"ours, {setting.precision}"


@dataclass
class Baseline:
    """step: a training step on what `batches` gives; loop: whose. memory: filled by the runs, in MiB: on a GPU the most
    that torch held in a run, without the other baselines' weights (None on a CPU), and the process's own memory.
    missing: why it is not measured, if it is not."""

    words: str
    step: Callable
    batches: Iterator
    setting: Setting
    loop: str
    memory: dict = field(default_factory=dict)
    missing: str | None = None


def prepare(options: StepRun, folder: Path) -> tuple[PackedDataset, dict[int, Path]]:
    """Images packed at the stages' sizes, and by size a folder of the same files, for timm: all in the page cache."""
    sizes = sorted({stage.size for stage in options.stages})
    release = datasets.synthetic(folder / "release", options.studies, max(sizes))
    dataset, files = datasets.packed(release, folder / "pack", sizes), {}
    for size in sizes:
        files[size] = folder / f"files{size}"
        (files[size] / "image").mkdir(parents=True)  # timm reads folders of classes
        mapped = MappedSize(dataset.stored(size))
        for row in np.flatnonzero(dataset.packed):
            (files[size] / "image" / f"{row}.jpg").write_bytes(mapped[row].tobytes())
    return dataset, files


def baselines(
    dataset: PackedDataset, files: Path, stage: Stage, changed: Sequence[Setting], options: StepRun
) -> list[Baseline]:
    """All of a stage; one that trains alone shares its network with the one that is fed."""
    base, num_rows = options.setting, len(dataset.catalog)
    loading = step_timm.loaded(files, stage, options)  # its workers fork before DALI's threads start
    next(loading)
    fed = batches_of(dataset, options.loader_options(stage))
    kept = [Batch(images.clone(), rows) for images, rows in (next(fed) for _ in range(KEPT))]

    def ours(setting: Setting) -> TrainingStep:
        return TrainingStep(options.arch, stage, setting, options.device, num_rows)

    own, theirs = ours(base), step_timm.Loop(base, FINDINGS, options)
    colour = step_timm.cached([each.images for each in kept], options.device)
    found = [
        Baseline(CACHED, own, cycle(kept), base, LOOP),
        Baseline(LOADER, own, fed, base, LOOP),
        Baseline(TIMM_CACHED, theirs, step_timm.normalised(colour), base, step_timm.LOOP),
        Baseline(TIMM_LOADER, theirs, loading, base, step_timm.LOOP),
    ]
    variants = [Baseline(words_of(setting, base), ours(setting), cycle(kept), setting, LOOP) for setting in changed]
    return [*found, *variants]


def interleaved(found: Sequence[Baseline], stage: Stage, options: StepRun) -> dict[str, list[Trained]]:
    """Runs in turn, after one of each that is thrown away and sizes the others.

    A baseline for which the GPU's memory is not enough is left out from there on, with all its runs: its `missing` says
    why, and the others go on."""
    counts, runs, device = {}, {one.words: [] for one in found}, options.device
    for one in found:  # the first run compiles
        if _fitting(one, 1, device) and (sizing := _fitting(one, LEAD, device)):
            counts[one.words] = max(1, round(sizing.rate * options.seconds / stage.batch))
    for _ in range(options.rounds):
        for one in found:
            if one.missing is None and (run := _fitting(one, counts[one.words], device)):
                runs[one.words].append(run)
    return {one.words: runs[one.words] for one in found if one.missing is None}


def _fitting(one: Baseline, count: int, device: str) -> Trained | None:
    """A run; None, with `missing` set and the weights let go, if it does not fit."""
    try:
        return _run(one, count, device)
    except Exception as error:  # the compiler's are of its own kinds
        one.missing = step_memory.does_not_fit(error)
        if one.missing is None:
            raise
    # after the except block: until there, the error holds the frames that hold the tensors
    one.step = one.batches = None
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
    return None


def _run(one: Baseline, count: int, device: str) -> Trained:
    on_gpu, own = device != "cpu", None
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    found = trained(one.step, one.batches, count, device)
    if on_gpu:  # above what all baselines' weights and moments hold between runs
        own = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    one.memory = {"step_mib": own, "rss_mib": psutil.Process().memory_info().rss / 2**20}
    return found


def release() -> None:
    """What is left of a stage goes before the next."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
