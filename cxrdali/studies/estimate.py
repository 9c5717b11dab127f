"""How long the runs of a study would take here, and their size: a few real steps per kind of run, and arithmetic."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cxrdali.data.sampler import epoch_samples
from cxrdali.data.schedule import Segment
from cxrdali.data.targets import targets
from cxrdali.models.tta import TTA
from cxrdali.runs.oversampling import chosen_findings, oversampled
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.device import Hardware
from cxrdali.studies.ground import Plan
from cxrdali.train import dry_run
from cxrdali.train.cached import is_cached
from shards.dataset.dataset import Dataset
from shards.errors import UserError

CPU_IMAGES = 4  # at a time: the rate per image is about that of the whole batch, and the wait a tenth


@dataclass(frozen=True)
class Rate:
    """Images per second: trained (one step of the optimizer on a batch from the loader), predicted (one pass).

    disk: bytes of the run's folder.
    """

    trained: float
    predicted: float
    disk: int = 0


def measure(settings: TrainSettings, dataset: Dataset) -> Rate:
    """Train and predict a few batches with new weights; nothing is kept.

    A frozen backbone costs its forward pass, in training too; epochs of the head alone are counted as the others.
    Raises UserError for what `train` refuses.
    """
    on_gpu = Hardware.resolve(settings.runtime.device, settings.runtime.precision).device != "cpu"
    small = {} if on_gpu else {"batch": min(CPU_IMAGES, settings.optimizer.batch), "micro_batch": None}
    alone = dict.fromkeys(("init", "oversample_below", "oversample_from"))  # they may not be trained yet
    whole = {"frozen": False, "new_head": False, "pretrained": False, "head_epochs": 0, "head_epochs_lr": None}
    plain = settings.changed(**alone, **small, **whole, oversample=())
    level = logging.getLogger("cxrdali.train").level
    logging.getLogger("cxrdali.train").setLevel(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = dry_run.dry_run(plain, dataset, Path(folder) / "run")
    finally:
        logging.getLogger("cxrdali.train").setLevel(level)
    assert found is not None  # of a new folder
    predicted = found.val_images * found.epochs / found.validation_seconds
    trained = plain.optimizer.batch / found.step_seconds
    return Rate(predicted if settings.model.frozen else trained, predicted, found.disk_bytes)


def kind(settings: TrainSettings) -> tuple:
    """What decides how fast a run goes."""
    model, runtime = settings.model, settings.runtime
    return model.arch, settings.data.size, settings.optimizer.batch, runtime.micro_batch, model.frozen


def by_size(settings: TrainSettings) -> dict[Segment, TrainSettings]:
    """A run's epochs of each of its sizes, with the settings of a run of that size alone: what is measured."""
    return {
        each: settings.at(each).changed(schedule=None, grow_from=1.0) if settings.data.schedule else settings
        for each in settings.segments
    }


def epoch_images(plan: Plan, name: str) -> tuple[int, bool]:
    """Images in an epoch of a model, and whether that is all: what is oversampled by an AP is known only after it."""
    settings, base = plan.models[name][0], plan.bases[name]
    if not settings.data.oversample and settings.data.oversample_below is None:
        how, wanted = settings.data.sampler, targets(base.labels, settings.data.uncertain)
        return epoch_samples(how.over(base.train_rows, wanted, 0, 1), base.train_rows), True
    source = settings.data.oversample_from and Path(settings.data.oversample_from)
    findings = base.labels.findings
    try:
        chosen, _ = chosen_findings(settings.data.oversample, settings.data.oversample_below, source, findings)
    except UserError:  # the run is not there or not finished
        return len(base.train_rows), False
    return len(oversampled(base.train_rows, targets(base.labels, settings.data.uncertain), findings, chosen)), True


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


def hours(
    plan: Plan, name: str, rates: Mapping[Segment, Rate], epochs: int, to_do: Mapping[str, str | None]
) -> tuple[float, float]:
    """Of training a run's last so many epochs, and of its predictions that are to be done; rates: of each size."""
    settings, base = plan.models[name][0], plan.bases[name]
    cached = is_cached(settings)
    passes = 1 if cached or settings.optimizer.ema_decay is None else 2  # the average is validated, too
    images, validated = epoch_images(plan, name)[0], passes * len(base.splits["val"])
    begun, training = settings.optimizer.epochs - epochs, 0.0
    for segment, rate in rates.items():
        left = max(0, segment.end - max(begun, segment.start))
        training += training_hours(rate, images, validated, left, cached)
    asked = [each for each in plan.asked if each.model == name and to_do[each.step]]
    return training, sum(predicting_hours(rate, len(base.splits[each.split]), each.tta) for each in asked)
