"""cRT: a finished run's backbone, its classifier retrained on balanced draws (Kang et al. 2020, "Decoupling")."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from cxrdali.models.losses import PARAMETERS
from cxrdali.runs import folder as runs
from cxrdali.runs.settings import TrainSettings
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

EPOCHS, LR = 10, 1e-3
# What the first training was about, and the classifier's is not
_OWN = ("init", "oversample", "oversample_below", "oversample_from", "loss", "sampler", "micro_batch", *PARAMETERS)


def settings_of(run: Path, dataset: PackedDataset, changes: Mapping[str, object]) -> TrainSettings:
    """Settings that retrain the classifier of `run` on its own training images, scored on its own validation ones.

    changes: settings to have otherwise than the run's, or than these: class-balanced draws, plain BCE, a new
    classifier, no augmentation, EPOCHS epochs at LR with one warm-up epoch. Raises UserError if the run is not
    finished, or was trained on other data: its validation images might be among the training images here.
    """
    config, state = runs.finished(run, "finish it first")
    labels = dataset.labels(config["labels"]["name"])
    if (config["dataset"]["id"], config["labels"]["sha256"]) != (dataset.id, labels.sha256):
        raise UserError(
            f"{run}: was trained on another dataset or other labels than {dataset.root} with {labels.name!r}; "
            "give the dataset of the run with --data"
        )
    runs.best_weights(run, state)  # they are there, before anything is written
    known = {field.name for field in fields(TrainSettings)}
    kept = {name: value for name, value in config["settings"].items() if name in known and name not in _OWN}
    own = {
        "init": str(run), "frozen": True, "new_head": True, "sampler": "class-balanced", "loss": "bce",
        "flips": "none", "cutout": "off", "epochs": EPOCHS, "warmup_epochs": 1, "lr": LR, "min_lr": 0.0,
        "patience": None, "checkpointing": False,
    }  # fmt: skip
    return TrainSettings(**{**kept, **own, **changes})
