"""Where a frozen backbone's features take the place of images: in memory, or on disk for study-level runs."""

import logging
from functools import partial

from cxrdali.data.augment import options_of
from cxrdali.data.loader import Loader
from cxrdali.models.classifier import Classifier
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks
from cxrdali.train.features import CachedLoader, features_of
from cxrdali.train.selection import TrainingData
from cxrdali.train.study_features import Backbone, FeatureLoader, kept
from shards.words import counted

log = logging.getLogger(__name__)

Loaders = tuple[Loader | CachedLoader | FeatureLoader, Loader | CachedLoader | FeatureLoader]


def is_cached(settings: TrainSettings, world: int = 1) -> bool:
    """Whether a frozen backbone's features are computed once: nothing changes an image between epochs.

    A trial of a few batches would wait for the features of all images, and every rank would compute them all, unless
    they are kept on disk for study-level runs.
    """
    runtime, data = settings.runtime, settings.data
    changes = data.mixup or data.cutmix or options_of(data.flips, data.cutout, data.augment) is not None
    whole = runtime.cache_features and not runtime.limit_batches and (world == 1 or settings.study is not None)
    return settings.model.frozen and whole and not changes


def with_features(
    settings: TrainSettings,
    data: TrainingData,
    model: Classifier,
    hardware: Hardware,
    ranks: Ranks,
    loaders: tuple[Loader, Loader],
) -> Loaders | None:
    """The loaders of training and validation with features for images; None where images are seen in every epoch."""
    loader, val_loader = loaders
    if not is_cached(settings, ranks.world):
        return None
    if settings.study:
        plain = partial(Loader, data.dataset, options=loader.options, rank=ranks.rank, world=ranks.world)
        features = kept(Backbone(model, plain, hardware, ranks), data.rows, settings.study.folder)
        return FeatureLoader(loader, features, hardware), FeatureLoader(val_loader, features, hardware)
    if model.seen.why:
        log.info(f"features are computed anew in every epoch: {model.seen.why}")
        return None
    once, micro_batch = type(loader)(data.dataset, data.train_rows, loader.options), settings.runtime.micro_batch
    return (
        _cached(loader, once, model, hardware, micro_batch),
        _cached(val_loader, val_loader, model, hardware, micro_batch),
    )


def _cached(
    loader: Loader, plain: Loader, model: Classifier, hardware: Hardware, micro_batch: int | None
) -> CachedLoader:
    """`loader` with the backbone's features for images; `plain` has its rows once and in order."""
    what = "validation" if plain is loader else "training"
    features = features_of(model, plain, hardware, micro_batch, f"features of {what} images")
    rows = counted(len(plain.rows), f"{what} image")
    log.info(f"features of {rows}: {features.shape[1]:,} numbers each, computed once")
    return CachedLoader(loader, plain.rows, features)
