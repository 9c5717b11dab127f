"""What a run trains and validates on: rows, targets, counts, and how often an image is visited."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdali.data.sampler import Sampler, oversampled
from cxrdali.data.splits import train_and_validation
from cxrdali.data.targets import check_labelled, counts, targets
from cxrdali.runs.oversampling import Oversampling, chosen_findings
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
    train_rows, val_rows = train_and_validation(dataset, labels, settings.fold_options())
    if settings.limit_batches:
        val_rows = val_rows[: settings.limit_batches * settings.batch]
    check_labelled(labels, train_rows, "the training split")
    wanted = targets(labels, settings.uncertain)
    epoch_rows, oversampling = train_rows, None
    if settings.oversample or settings.oversample_below is not None:
        source = settings.oversample_from and Path(settings.oversample_from)
        chosen, without = chosen_findings(
            settings.oversample, settings.oversample_below, source, labels.findings, stored
        )
        epoch_rows = oversampled(train_rows, wanted, labels.findings, chosen)
        oversampling = Oversampling(
            chosen, settings.oversample_below, settings.oversample_from, without,
            images_doubled=len(epoch_rows) - len(train_rows), epoch_images=len(epoch_rows),
        )  # fmt: skip
    positives, negatives = counts(wanted, train_rows)
    seed = sampling_seed(settings.seed, settings.stage)
    sampler = Sampler.make(settings.sampler, train_rows, wanted, seed, settings.epochs)
    return TrainingData(
        dataset, labels, train_rows, val_rows, epoch_rows, wanted, positives, negatives, oversampling, sampler
    )
