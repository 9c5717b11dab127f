"""A folder as `cxrdali paper` leaves it, written with known numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali.runs.layout import FINDING_COLUMNS, METRIC_COLUMNS
from cxrdali.runs.settings import names
from shards.storage.sealed import sealed_json
from tests.cxrdali.comparable_runs import write_progress


@dataclass(frozen=True)
class Model:
    """A run and its validation mAP by epoch; parent: the recipe that it starts from."""

    name: str
    stage: int
    size: int
    batch: int
    mean: Sequence[float]
    parent: str | None = None
    below: float | None = None
    doubled: tuple[str, ...] = ()
    epoch_seconds: float = 60.0
    settings: Mapping[str, object] | None = None


def write_model(runs: Path, model: Model, findings: Sequence[str], dataset: str = "d" * 64) -> Path:
    """Losses fall by epoch; every finding has the mAP as its AP; a tenth of the training time is waiting."""
    folder = runs / model.name
    folder.mkdir(parents=True)
    oversampling = {
        "findings": [*model.doubled], "below": model.below, "from": "runs/model2", "without_ap": ["Fibrosis"],
        "images_doubled": 120, "epoch_images": 1120,
    }  # fmt: skip
    settings = {
        "stage": model.stage, "size": model.size, "batch": model.batch, "epochs": len(model.mean), "lr": 1e-3,
        "arch": "tf_efficientnetv2_s.in21k_ft_in1k", "pretrained": True, "group": "study", "fold_rule": "ids",
        "seed": 0, "init": model.parent and f"/moved/runs/{model.parent}", "oversample_below": model.below,
        "oversample_from": model.below and "runs/model2", **(model.settings or {}),
    }  # fmt: skip
    config = {
        "settings": names().grouped(settings),
        "recipe": {"name": model.name, "starts_from": model.parent, "overridden": dict(model.settings or {})},
        "oversampling": oversampling if model.below else None,
        "findings": [*findings],
        "dataset": {"id": dataset},
        "labels": {"name": "cxr-lt-2023", "sha256": "e" * 64},
        "selection": {"train_images": 1000, "val_images": 250, "train_sha256": "a" * 64, "val_sha256": "b" * 64},
    }
    (folder / "config.json").write_bytes(sealed_json(config))
    epochs = np.arange(1, len(model.mean) + 1)
    train = model.epoch_seconds * (1 + 0.5 * (epochs == 2))
    metrics = pd.DataFrame(
        {
            "epoch": epochs, "lr": 1e-3 / epochs, "train_loss": 0.3 - 0.02 * model.stage + 0.1 / epochs,
            "val_loss": 0.31 - 0.02 * model.stage + 0.1 / epochs, "mAP": model.mean, "LRAP": 0.6, "macro_AUROC": 0.8,
            "images": 1000, "images_per_second": 1000 / train, "train_seconds": train, "wait_seconds": train / 10,
            "val_seconds": model.epoch_seconds / 4, "reweighted": 0,
        }
    )[[*METRIC_COLUMNS]]  # fmt: skip
    metrics.to_csv(folder / "metrics.csv", index=False)
    write_progress(folder)
    rows = [(epoch, name, mean, 0.8, 10, 240) for epoch, mean in zip(epochs, model.mean, strict=True)
            for name in findings]  # fmt: skip
    pd.DataFrame(rows, columns=FINDING_COLUMNS).to_csv(folder / "findings.csv", index=False)
    return folder


def write_step(paper: Path, name: str, split: str, ap: Mapping[str, float | None], positives: Mapping[str, int]):
    """An evaluation: AP by finding, frontal and lateral the same as all, 1000 images."""
    (paper / "evaluations").mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "finding": finding, "positives": positives[finding], "negatives": 1000 - positives[finding],
            "prevalence": positives[finding] / 1000, "AP": value, "AP_low": value and value - 0.01,
            "AP_high": value and value + 0.01, "AUROC": 0.8, "AUROC_low": 0.75, "AUROC_high": 0.85,
        }
        for finding, value in ap.items()
    ]  # fmt: skip
    known = [value for value in ap.values() if value is not None]
    part = {
        "images": 1000, "studies": 400, "mAP": sum(known) / len(known), "macro_AUROC": 0.8, "LRAP": 0.6,
        "without_positives": [finding for finding, value in ap.items() if value is None], "findings": rows,
    }  # fmt: skip
    content = {
        "predictions": f"{name}.{split}.parquet", "run": name, "split": split, "labels": "cxr-lt-2023",
        "images": 1000, "studies": 400, "level": 0.95, "draws": 100, "all": part, "frontal": part, "lateral": None,
    }  # fmt: skip
    path = paper / "evaluations" / f"{name}.{split}.json"
    path.write_bytes(sealed_json(content))
    return path


def write_views(paper: Path, frontal: Mapping[str, float | None], lateral: Mapping[str, float | None]) -> Path:
    rows = []
    for place, finding in enumerate(frontal):
        both = frontal[finding] is not None and lateral[finding] is not None
        difference = frontal[finding] - lateral[finding] if both else None
        rows.append(
            {
                "finding": finding, "frontal_ap": frontal[finding], "lateral_ap": lateral[finding],
                "difference": difference, "frontal_images": 700, "frontal_positives": 300 - place,
                "lateral_images": 300, "lateral_positives": 100 - place,
                "superior": bool(both and difference > 0),
            }
        )  # fmt: skip
    made_from = {"predictions": "model3.val.parquet", "run": "model3", "split": "val", "labels": "l", "dataset": "d"}
    path = paper / "views.json"
    path.write_bytes(sealed_json({"format": 1, "made_from": made_from, "findings": rows}))
    return path
