"""A run's predictions on a split, in catalog order."""

from collections.abc import Callable
from pathlib import Path

from cxrdali import run as runs
from cxrdali.hardware import Hardware
from cxrdali.inference import TTA, logits
from cxrdali.loader import Loader, LoaderOptions
from cxrdali.model import ModelOptions, create, load_initial
from cxrdali.predictions import Predictions, Provenance
from cxrdali.selection import FoldOptions, rows_sha256, select
from shards.errors import DataError
from shards.packed import PackedDataset


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
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Predictions:
    """Logits of the run's best weights for every packed image of a split.

    tta: "none", "hflip" (the paper's: the mean probability of the image and its mirror image) or "flips" (four passes,
    along both axes). `labels` chooses the release whose split is meant (default: the run's own); val and train are the
    run's own fold. Raises DataError if the weights are missing or another dataset would silently change what val means.
    """
    if tta not in TTA:
        raise DataError(f"tta {tta!r}: choose one of {', '.join(TTA)}")
    config = runs.read_config(run)
    settings = config["settings"]
    table = dataset.labels(labels or config["labels"]["name"])
    if split in ("train", "val") and (dataset.id, table.sha256) != (
        config["dataset"]["id"],
        config["labels"]["sha256"],
    ):
        raise DataError(
            f"{run}: was trained on another dataset or other labels than {dataset.root} with {table.name!r}, so its "
            f"{split} split is not there; choose dev, test or all"
        )
    fold = FoldOptions(settings["fold"], settings["folds"], settings["group"])
    rows = select(dataset, table, split, fold)
    if split in ("train", "val"):
        trained = select(dataset, table, "train", fold)
        if rows_sha256(trained) != config["selection"]["train_sha256"]:
            raise DataError(
                f"{run}: fold {fold.fold} comes out differently here than where it was trained, so its {split} split "
                "would mix with the other; predict there, or choose dev, test or all"
            )
    hardware = Hardware.resolve(device, precision)
    options = ModelOptions.of_run(settings)
    findings = tuple(config["findings"])
    model = create(options, len(findings))
    load_initial(model, runs.best_weights(run, runs.load_last(run)), findings)
    model.to(hardware.device)
    batch = settings["batch"] if batch is None else batch
    loader = Loader(dataset, rows, LoaderOptions(settings["size"], batch, threads, decode, hardware.device))
    say(
        f"{len(rows):,} images of {split} at {settings['size']} px, {hardware.precision} on {hardware.device}, "
        f"decode {loader.options.resolved_decode}"
        + (f", TTA {tta}: {len(TTA[tta])} passes" if tta != "none" else "")
        + (f", resized from {loader.resized_from} px" if loader.resized_from else "")
    )
    values = logits(model, loader, len(findings), hardware, tta=tta, progress="predicting" if progress else None)
    ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]]
    return Predictions(ids, findings, values, Provenance("logit", run.name, split, table.name, dataset.id, tta))
