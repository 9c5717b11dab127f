"""Study-level runs: a finished run's backbone and classifier, and between them a fusion of all of a study's images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxrdali.data.studies import Studies
from cxrdali.data.targets import PIECE, Targets
from cxrdali.models.fusion_options import StudyOptions
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of, run_rows
from cxrdali.runs.settings import TrainSettings
from cxrdali.train.retrain import EPOCHS, SHORT
from cxrdali.train.selection import TrainingData
from shards.dataset.dataset import Dataset

LR, LR_OF_ALL = 1e-3, 1e-4  # of a frozen backbone, and of one that is trained too


def study_settings(
    run: Path, dataset: Dataset, asked: StudyOptions, changes: Mapping[str, object], augment: bool = False
) -> TrainSettings:
    """Settings that train a fusion on the training images of `run`, scored on its own validation ones.

    changes: settings to have otherwise, by flat name, than the run's, or than these: a frozen backbone, every study
    once an epoch, no augmentation of a frozen backbone's images (augment: the run's), EPOCHS epochs with one of
    warm-up. Raises UserError if the run is not finished, or was trained on other data: its validation images might be
    trained on here.
    """
    trained = Run.open(run)
    trained.check_finished("finish it first")
    run_rows(trained, dataset, labels_of(trained, dataset), "; give the dataset of the run with --data")
    trained.best_weights()  # they are there, before anything is written
    frozen = bool(changes.get("frozen", True))
    own = {
        "init": str(run), "frozen": frozen, "new_head": False, "sampler": "natural", "mix": "size", "compile": False,
        "epochs": EPOCHS, "lr": LR if frozen else LR_OF_ALL, "cache_features": True, **SHORT,
        "mixup": 0.0, "cutmix": 0.0,  # of neighbours, which have other numbers of images
        **({"checkpointing": False} if frozen else {}),
        **({"augment_preset": "none"} if frozen and not augment else {}),
    }  # fmt: skip
    asked = asked if asked.features else replace(asked, features=str(run / "features"))
    return trained.settings.changed(**own).of_studies(asked).changed(**changes)


@dataclass(frozen=True)
class StudyTargets:
    """float32 [B, F] of the studies with the first rows that are asked for, as the training loss sees them: the largest
    known target among all of a study's images, so that one positive image is enough; NaN where none is known."""

    targets: Targets
    studies: Studies

    def __getitem__(self, first: np.ndarray) -> np.ndarray:
        return self._largest(self.targets.in_training, first)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many of the studies are positive and negative for each finding: int64 [F] each."""
        first = self.studies.first
        pieces = [self._largest(self.targets, first[at : at + PIECE]) for at in range(0, len(first), PIECE)]
        positives, negatives = (sum((each == value).sum(axis=0) for each in pieces) for value in (1, 0))
        return np.asarray(positives), np.asarray(negatives)

    def _largest(self, values: Targets, first: np.ndarray) -> np.ndarray:
        places, offsets = self.studies.images(first)
        return np.fmax.reduceat(values[self.studies.rows[places]], offsets[:-1], axis=0)


def by_study(data: TrainingData) -> TrainingData:
    """The same images, of which whole studies are trained on: with their targets, and the loss's counts of these."""
    wanted = StudyTargets(data.targets, Studies.of(data.dataset, data.train_rows))
    positives, negatives = wanted.counts()
    return replace(data, positives=positives, negatives=negatives, of_studies=wanted)
