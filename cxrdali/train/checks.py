"""What a run cannot be trained with, known once its model and its share of a batch are."""

from cxrdali.models.classifier import Classifier
from cxrdali.runs.settings import TrainSettings
from shards.errors import UserError


def check_norms(model: Classifier, settings: TrainSettings, at_a_time: int, share: int) -> None:
    """Raises UserError if batch normalisation would see a single value of a channel, which has no variance.

    at_a_time: images; share: of a batch, in images or studies, that this process trains on.
    """
    layer, runtime = model.seen.single, settings.runtime
    fix = "a larger --micro-batch" if runtime.micro_batch else "a larger --batch"
    if settings.study:
        whole = share * settings.study.study_images
        at_a_time = 1 if at_a_time < whole else share  # a part of a batch may be a study of one image
        fix = f"--micro-batch {whole}, so that a batch is one part" if share > 1 else "a larger --batch"
    if layer and at_a_time == 1 and not settings.model.frozen and not runtime.sync_bn:
        raise UserError(
            f"{settings.model.arch!r} cannot train on 1 image of {settings.data.size} px at a time: its batch "
            f"normalisation {layer!r} would see 1 value of each channel; use {fix}"
        )


def check_pairs(settings: TrainSettings, share: int, world: int) -> None:
    """Raises UserError if a process's share of a batch is not made of whole pairs."""
    for name in ("mixup", "cutmix"):
        if getattr(settings.data, name) and share % 2:
            each = f", {share} for each of {world} processes" if world > 1 else ""
            batch = settings.optimizer.batch
            raise UserError(
                f"{name}: mixes pairs of neighbours, and a batch of {batch}{each} is not made of pairs; give a --batch "
                f"that {2 * world} divides"
            )
