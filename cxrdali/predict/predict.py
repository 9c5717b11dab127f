"""A run's predictions on a split, in catalog order."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import rows_sha256, select
from cxrdali.models.classifier import Classifier, create
from cxrdali.models.inference import Inference, logits
from cxrdali.models.tta import TTA
from cxrdali.models.weights import load_initial
from cxrdali.predictions import Predictions, Provenance
from cxrdali.runs import folder as runs
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.device import Hardware, versions
from cxrdali.runtime.distributed import joined
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import sha256_file

log = logging.getLogger(__name__)


def predict(
    run: Path,
    dataset: PackedDataset,
    split: str,
    *,
    labels: str | None = None,
    tta: str = "none",
    batch: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    decode: str = "auto",
    threads: int | None = None,
) -> Predictions | None:
    """Logits of the run's best weights for every packed image of a split.

    tta: a name of `cxrdali.models.tta.TTA`; the mean probability over its passes. batch: images at a time (None: as
    many as in the run's training). `labels` chooses the release whose split is
    meant (default: the run's own); val and train are the run's own fold. Raises UserError if the weights are missing or
    another dataset would silently change what val means. With several ranks (`cxrdali.runtime.distributed`), rank 0
    returns the same predictions as one process, and the others None.
    """
    if tta not in TTA:
        raise UserError(f"tta {tta!r}: choose one of {', '.join(TTA)}")
    config = runs.read_config(run)
    settings = TrainSettings.from_json(config["settings"])
    table = dataset.labels(labels or config["labels"]["name"])
    rows = split_rows(run, config, dataset, table, split)
    findings = tuple(config["findings"])
    model = load_run_model(run, config)
    batch = batch or settings.runtime.micro_batch or settings.optimizer.batch
    with joined(device) as ranks:
        hardware = Hardware.resolve(ranks.device(device), precision)
        if ranks.world > 1:
            asked = {"run": run.name, "epoch": runs.best_epoch(run), "weights": sha256_file(run / runs.BEST)}
            asked |= {"split": split, "tta": tta, "batch": batch, "precision": hardware.precision, "decode": decode}
            ranks.agree({**asked, "dataset": dataset.id, "labels": table.sha256, "versions": versions()})
        model = model.to(hardware.device)
        threads = ranks.threads() if threads is None else threads
        options = LoaderOptions(settings.data.size, batch, threads, decode, hardware.device)
        loader = Loader(dataset, rows, options, rank=ranks.rank, world=ranks.world)
        log.info(
            f"{len(rows):,} images of {split} at {settings.data.size} px, {hardware.precision} on {hardware.device}, "
            f"decode {loader.options.resolved_decode}"
            + (f", TTA {tta}: {len(TTA[tta])} passes" if tta != "none" else "")
            + (f", resized from {loader.resized_from} px" if loader.resized_from else "")
            + (f", batches dealt out to {ranks.world} processes" if ranks.world > 1 else "")
        )
        if outlook := dataset.outlook(loader.resized_from or settings.data.size):
            log.info(outlook)
        # a vote holds the ranks together: one that died is noticed now, not when all others are done
        how = Inference(tta=tta, progress="predicting", check=lambda: ranks.vote(0), ranks=ranks)
        values = logits(model, loader, len(findings), hardware, how)
    if values is None:
        return None
    if dataset.mirror:
        log.info(f"waited {dataset.mirror.take_waited():,.1f} s for the bucket")
    ids = dataset.columns("image_id", "study_id", "view").iloc[rows]
    return Predictions(ids, findings, values, Provenance("logit", run.name, split, table.name, dataset.id, tta))


def split_rows(run: Path, config: Mapping, dataset: PackedDataset, labels: Labels, split: str) -> np.ndarray:
    """Catalog rows of a split for a run with this config.json: int64 [n], ascending; val and train are its own fold.

    Raises UserError if those two would not be what they were in training.
    """
    if split in ("train", "val") and (dataset.id, labels.sha256) != (
        config["dataset"]["id"],
        config["labels"]["sha256"],
    ):
        raise UserError(
            f"{run}: was trained on another dataset or other labels than {dataset.root} with {labels.name!r}, so its "
            f"{split} split is not there; choose dev, test or all"
        )
    fold = TrainSettings.from_json(config["settings"]).data
    rows = select(dataset, labels, split, fold)
    if split in ("train", "val"):
        trained = select(dataset, labels, "train", fold)
        if rows_sha256(trained) != config["selection"]["train_sha256"]:
            raise UserError(
                f"{run}: fold {fold.fold} comes out differently here than where it was trained, so its {split} split "
                "would mix with the other; predict there, or choose dev, test or all"
            )
    return rows


def load_run_model(run: Path, config: Mapping) -> Classifier:
    """A run's model with its best weights, on the CPU. Raises UserError if they are missing or do not fit."""
    findings = tuple(config["findings"])
    model = create(TrainSettings.from_json(config["settings"]).model_options(), len(findings))
    load_initial(model, runs.best_weights(run, runs.load_last(run)), findings)
    return model
