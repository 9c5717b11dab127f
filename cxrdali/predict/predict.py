"""A run's predictions on a split, in catalog order."""

import logging
from pathlib import Path

import numpy as np

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import rows_sha256, select
from cxrdali.models.classifier import Classifier, create
from cxrdali.models.inference import Inference, logits
from cxrdali.models.tta import TTA
from cxrdali.models.weights import load_initial
from cxrdali.predict.options import PredictOptions
from cxrdali.predictions import Predictions, Provenance
from cxrdali.runs.layout import BEST
from cxrdali.runs.reader import Run, weights_epoch
from cxrdali.runtime.device import Hardware, versions
from cxrdali.runtime.distributed import Ranks, joined
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import sha256_file
from shards.words import counted

log = logging.getLogger(__name__)


def predict(run: Path, dataset: PackedDataset, split: str, options: PredictOptions | None = None) -> Predictions | None:
    """Logits of the run's best weights for every packed image of a split.

    Args:
        run: The run's folder; its last.pt is not needed.
        dataset: Where the images are.
        split: val and train are the run's own fold; dev, test and all are those of the labels.
        options: How to predict.

    Returns:
        One row per image, in catalog order. With several ranks (`cxrdali.runtime.distributed`), rank 0 returns the same
        as one process, and the others None.

    Raises:
        UserError: The weights are missing, or another dataset would silently change what val means.
    """
    asked, trained = options or PredictOptions(), Run.open(run)
    table = dataset.labels(asked.labels or trained.labels)
    rows = split_rows(trained, dataset, table, split)
    model, settings = load_run_model(trained), trained.settings
    batch = asked.batch or settings.runtime.micro_batch or settings.optimizer.batch
    with joined(asked.device) as ranks:
        hardware = Hardware.resolve(ranks.device(asked.device), asked.precision)
        if ranks.world > 1:
            weights = {"epoch": weights_epoch(run / BEST), "weights": sha256_file(run / BEST)}
            how = {"split": split, "tta": asked.tta, "batch": batch, "precision": hardware.precision}
            data = {"decode": asked.decode, "dataset": dataset.id, "labels": table.sha256, "versions": versions()}
            ranks.agree({"run": run.name, **weights, **how, **data})
        model = model.to(hardware.device)
        threads = ranks.threads() if asked.threads is None else asked.threads
        loading = LoaderOptions(settings.data.size, batch, threads, asked.decode, hardware.device)
        loader = Loader(dataset, rows, loading, rank=ranks.rank, world=ranks.world)
        log.info(_words(loader, split, hardware, ranks, asked.tta))
        if outlook := dataset.outlook(loader.resized_from or settings.data.size):
            log.info(outlook)
        # a vote holds the ranks together: one that died is noticed now, not when all others are done
        how = Inference(tta=asked.tta, progress="predicting", check=lambda: ranks.vote(0), ranks=ranks)
        values = logits(model, loader, len(trained.findings), hardware, how)
    if values is None:
        return None
    if dataset.mirror:
        log.info(f"waited {dataset.mirror.take_waited():,.1f} s for the bucket")
    ids = dataset.columns("image_id", "study_id", "view").iloc[rows]
    provenance = Provenance("logit", run.name, split, table.name, dataset.id, asked.tta)
    return Predictions(ids, trained.findings, values, provenance)


def _words(loader: Loader, split: str, hardware: Hardware, ranks: Ranks, tta: str) -> str:
    """What is going to be predicted, in a line."""
    options, resized_from = loader.options, loader.resized_from
    return (
        f"{counted(len(loader.rows), 'image')} of {split} at {options.size} px, {hardware.precision} on "
        f"{hardware.device}, decode {options.resolved_decode}"
        + (f", TTA {tta}: {counted(len(TTA[tta]), 'pass')}" if tta != "none" else "")
        + (f", resized from {resized_from} px" if resized_from else "")
        + (f", batches round-robin over {counted(ranks.world, 'process')}" if ranks.world > 1 else "")
    )


def split_rows(run: Run, dataset: PackedDataset, labels: Labels, split: str) -> np.ndarray:
    """Catalog rows of a split for this run: int64 [n], ascending; val and train are its own fold.

    Raises UserError if those two would not be what they were in training.
    """
    its_own = (dataset.id, labels.sha256) == (run.dataset_id, run.labels_sha256)
    if split in ("train", "val") and not its_own:
        raise UserError(
            f"{run.path}: was trained on another dataset or other labels than {dataset.root} with {labels.name!r}, so "
            f"its {split} split is not there; choose dev, test or all"
        )
    rows = select(dataset, labels, split, run.fold)
    if split in ("train", "val"):
        trained = select(dataset, labels, "train", run.fold)
        if rows_sha256(trained) != run.needed("selection", "train_sha256"):
            raise UserError(
                f"{run.path}: fold {run.fold.fold} comes out differently here than where it was trained, so its "
                f"{split} split would mix with the other; predict there, or choose dev, test or all"
            )
    return rows


def load_run_model(run: Run) -> Classifier:
    """A run's model with its best weights, on the CPU. Raises UserError if they are missing or do not fit."""
    model = create(run.settings.model_options(), len(run.findings))
    load_initial(model, run.best_weights(), run.findings)
    return model
