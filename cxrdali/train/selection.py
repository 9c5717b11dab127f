"""What a run trains and validates on: rows, targets, counts, and how often an image is visited."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdali.data.sampler import Sampler
from cxrdali.data.splits import train_and_validation
from cxrdali.data.targets import check_labelled, counts, targets
from cxrdali.runs.oversampling import Oversampling, chosen_findings, oversampled
from cxrdali.runs.settings import TrainSettings, sampling_seed
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset


@dataclass(frozen=True)
class TrainingData:
    """train_rows, val_rows: int64 catalog rows, ascending; epoch_rows: train_rows with oversampling's repeats.

    targets: float32 [catalog rows, F], NaN where ignored; positives, negatives: int64 [F], in train_rows.
    """

    dataset: PackedDataset
    labels: Labels
    train_rows: np.ndarray
    val_rows: np.ndarray
    epoch_rows: np.ndarray
    targets: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    oversampling: Oversampling | None
    sampler: Sampler | None

    @property
    def findings(self) -> tuple[str, ...]:
        return self.labels.findings


def select_data(
    settings: TrainSettings, dataset: PackedDataset, labels: Labels, stored: dict | None = None
) -> TrainingData:
    """stored: what a run that continues noted of its oversampling; it counts where the source was deleted since."""
    train_rows, val_rows = train_and_validation(dataset, labels, settings.data)
    if settings.runtime.limit_batches:
        val_rows = val_rows[: settings.runtime.limit_batches * settings.optimizer.batch]
    check_labelled(labels, train_rows, "the training split")
    wanted = targets(labels, settings.data.uncertain)
    epoch_rows, oversampling = train_rows, None
    if settings.data.oversample or settings.data.oversample_below is not None:
        source = settings.data.oversample_from and Path(settings.data.oversample_from)
        chosen, without = chosen_findings(
            settings.data.oversample, settings.data.oversample_below, source, labels.findings, stored
        )
        epoch_rows = oversampled(train_rows, wanted, labels.findings, chosen)
        oversampling = Oversampling(
            chosen, settings.data.oversample_below, settings.data.oversample_from, without,
            images_doubled=len(epoch_rows) - len(train_rows), epoch_images=len(epoch_rows),
        )  # fmt: skip
    positives, negatives = counts(wanted, train_rows)
    seed = sampling_seed(settings.seed, settings.stage)
    sampler = settings.data.sampler.over(train_rows, wanted, seed, settings.optimizer.epochs)
    return TrainingData(
        dataset, labels, train_rows, val_rows, epoch_rows, wanted, positives, negatives, oversampling, sampler
    )
