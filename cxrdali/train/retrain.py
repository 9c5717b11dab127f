"""cRT: a finished run's backbone, its classifier retrained on balanced samples (Kang et al. 2020, "Decoupling")."""

from collections.abc import Mapping
from pathlib import Path

from cxrdali.models.head import HEADS
from cxrdali.models.loss import LOSSES
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of, run_rows
from cxrdali.runs.settings import TrainSettings
from shards.dataset.dataset import Dataset
from shards.errors import UserError

EPOCHS, LR = 10, 1e-3
# of the training of a whole network, which that of its classifier does not take over
PLAIN_STEPS: dict[str, object] = {
    "head_lr": None, "layer_decay": None, "head_epochs": 0, "head_epochs_lr": None, "keep_epochs": 0, "drop_path": 0.0,
    "ema": None, "ema_half_life": None, "ema_warmup": False, "lr_schedule": "step",
}  # fmt: skip
SHORT = {  # of a short run that goes on from a finished one, at its last size
    "schedule": None, "grow_from": 1.0, "warmup_epochs": 1, "min_lr": 0.0, "patience": None,
    "micro_batch": None, "oversample": (), "oversample_below": None, "oversample_from": None, "allow_leak": False,
    **PLAIN_STEPS,
}  # fmt: skip


def retrain_settings(
    run: Path, dataset: Dataset, changes: Mapping[str, object], augment: bool = False
) -> TrainSettings:
    """Settings that retrain the classifier of `run` on its own training images, scored on its own validation ones.

    changes: settings to have otherwise, by flat name, than the run's, or than these: class-balanced samples, plain BCE,
    a new classifier, no augmentation (augment: the run's), EPOCHS epochs at LR with one warm-up epoch. Raises UserError
    if the run is not finished, or was trained on other data: its validation images might be trained on here; or its
    classifier is kept for another head.
    """
    trained = Run.open(run)
    trained.check_of_images("retrain-head")
    trained.check_finished("finish it first")
    run_rows(trained, dataset, labels_of(trained, dataset), "; give the dataset of the run with --data")
    trained.best_weights()  # they are there, before anything is written
    head = trained.settings.model.head
    plain = HEADS["linear"]() if head.bounded else head  # the loss below has no scale
    kept = {} if changes.get("new_head", True) else {"head": head}
    own = {
        "init": str(run), "frozen": True, "new_head": True, "head": plain, "sampler": "class-balanced",
        "loss": LOSSES["bce"](), "epochs": EPOCHS, "lr": LR, "checkpointing": False, **SHORT,
        **({} if augment else {"augment_preset": "none"}),
    }  # fmt: skip
    made = trained.settings.changed(**own).changed(**{**kept, **changes})
    if kept and made.model.head != head:
        raise UserError(
            f"head kept: {run} has the head {head.name}, whose classifier fits no head {made.model.head.name} and no "
            "other parameters; give --head new"
        )
    return made
