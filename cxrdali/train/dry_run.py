"""What a run would take, from a few steps of its own parts: nothing is kept, and what a start refuses is refused."""

import contextlib
import itertools
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cxrdali.data.schedule import Segment, at
from cxrdali.data.studies import pixels
from cxrdali.predictions import ID_COLUMNS
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.distributed import StoppedTogether
from cxrdali.runtime.full import told_if_full
from cxrdali.train.build import Parts, build
from cxrdali.train.cached import is_cached
from cxrdali.train.console import describe
from cxrdali.train.hooks import Hooks
from cxrdali.train.microbatch import full_words
from cxrdali.train.tracking import chosen
from cxrdali.train.trainer import train
from shards.dataset.dataset import Dataset

STEPS, ENOUGH_SECONDS = 10, 20.0  # measured steps at most; after so many seconds no further one begins
WARM_UP = 2  # steps that do not count: they fill caches and make the optimizer's moments


@dataclass(frozen=True)
class DryRun:
    """epochs, steps: those that are left, of `planned` epochs of steps_per_epoch; training_seconds and
    validation_seconds: of all these, each of which validates val_images; measured: steps, of which each took
    step_seconds; disk_bytes: of the run's folder, twice as many while it is saved; memory_bytes: at the peak, of the
    GPU (as torch holds it) or of this process; cached: a frozen backbone's features would be computed once. Of a
    schedule it is of the size that comes next, and `later` has one for each size after it."""

    planned: int
    epochs: int
    steps: int
    steps_per_epoch: int
    training_seconds: float
    validation_seconds: float
    measured: int
    step_seconds: float
    val_images: int
    disk_bytes: int
    memory_bytes: int
    on_gpu: bool
    cached: bool
    segment: Segment
    later: tuple["DryRun", ...] = ()

    @property
    def sizes(self) -> tuple["DryRun", ...]:
        """Of every size that is left."""
        return (self, *self.later)


class _Measured(StoppedTogether):
    """Raised where training would begin."""


def dry_run(settings: TrainSettings, dataset: Dataset, out: Path, recipe: dict | None = None) -> DryRun | None:
    """Take a few steps as `train` would; None if the run is finished. The folder `out` stays as it was.

    Raises UserError for whatever `train` refuses.
    """
    found: list[DryRun] = []

    def look(parts: Parts, loaded: dict | None) -> None:
        describe(parts)
        cached = is_cached(settings, parts.ranks.world) and not parts.model.seen.why
        begun = loaded or {"epoch": 0, "position": 0}
        found.append(_measured(parts, begun, cached))
        whole = trial.changed(labels=parts.settings.data.labels).resolved(len(parts.data.train_rows))
        for segment in whole.segments:
            if segment.start > begun["epoch"]:  # of new weights, which take as long
                later = build(whole.at(segment), parts.data, parts.hardware, parts.ranks)
                found.append(_measured(later, {"epoch": segment.start, "position": 0}, cached))
        raise _Measured

    chosen(settings)  # what is missing for its trackers, a start refuses
    made = [each for each in (out / ".lock", out, *out.parents) if not each.exists()]
    try:  # features of all images are most of what is to be estimated
        trial = settings.changed(cache_features=False, track=("none",))
        train(trial, dataset, out, recipe=recipe, hooks=Hooks(on_parts=look))
    except _Measured:
        return replace(found[0], later=tuple(found[1:]))
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # not there, or no longer empty: another process has begun
                each.rmdir() if each.is_dir() else each.unlink()
    return None


def _measured(parts: Parts, begun: dict, cached: bool) -> DryRun:
    how, data, on_gpu = parts.settings.optimizer, parts.data, parts.hardware.device != "cpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(parts.hardware.device)
    with told_if_full(full_words(parts.settings, parts.share)):
        # of the classifier alone, and of all
        of_head = _train(parts, begun["epoch"])[1] if begun["epoch"] < how.head_epochs else 0.0
        measured, step_seconds = _train(parts, max(begun["epoch"], how.head_epochs))
        image_seconds = _validate(parts)  # of one image
    segment, candidates = at(parts.settings.segments, begun["epoch"]), 2 if parts.step.ema else 1
    epochs = segment.end - begun["epoch"]
    steps = epochs * parts.steps_per_epoch - begun["position"] // how.batch
    whole = segment.end - min(max(how.head_epochs, segment.start), segment.end)  # epochs that train all of it
    first = max(0, steps - whole * parts.steps_per_epoch)
    training = step_seconds * (steps - first) + of_head * first
    training = image_seconds * len(data.train_rows) if cached else training
    validation = image_seconds * len(data.val_rows) / parts.ranks.world * (1 if cached else epochs * candidates)
    weights = list(parts.model.backbone.state_dict().values())
    copies = 1 + candidates + 2 * how.keep_epochs
    moments = [each for kept in parts.step.optimizer.state.values() for each in kept.values() if torch.is_tensor(each)]
    # best.safetensors, epochs/, last.pt, and a row of logits and three ids per validation image
    disk = _bytes([*weights * copies, *moments]) + len(data.val_rows) * 4 * (len(data.findings) + 6 * len(ID_COLUMNS))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    memory = torch.cuda.max_memory_reserved(parts.hardware.device) if on_gpu else resident
    return DryRun(
        how.epochs, epochs, steps, parts.steps_per_epoch, training, validation, measured, step_seconds,
        len(data.val_rows), disk, memory, on_gpu, cached, segment,
    )  # fmt: skip


def _train(parts: Parts, epoch: int) -> tuple[int, float]:
    """How many steps counted, and the mean seconds of one, waiting for data included."""
    device, seconds = parts.hardware.device, []
    parts.to_train(epoch)
    parts.loader.load_state_dict({"epoch": epoch, "position": 0})
    before = time.perf_counter()
    for images, rows in itertools.islice(parts.loader, min(STEPS + WARM_UP, parts.steps_per_epoch)):
        micro_batch = parts.settings.runtime.micro_batch or len(images)
        parts.step(images.to(device, non_blocking=True), parts.targets(rows), epoch, micro_batch, parts.weights(rows))
        parts.hardware.synchronize()
        seconds.append(-before + (before := time.perf_counter()))
        if parts.ranks.least(int(sum(seconds) > ENOUGH_SECONDS)):
            break
    counted = seconds[WARM_UP:] or seconds[-1:]
    return len(counted), sum(counted) / len(counted)


@torch.inference_mode()
def _validate(parts: Parts) -> float:
    """Seconds of an image of a validation batch: the second one, unless there is none or the first took too long."""
    parts.model.eval()
    before, found = time.perf_counter(), 0.0
    for images, _ in itertools.islice(parts.val_loader, 2):
        for chunk in images.to(parts.hardware.device).split(parts.settings.runtime.micro_batch or len(images)):
            with parts.hardware.autocast():
                parts.forward(chunk)
        parts.hardware.synchronize()
        took = -before + (before := time.perf_counter())
        found = took / len(pixels(images))
        if took > ENOUGH_SECONDS:
            break
    return found


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)
