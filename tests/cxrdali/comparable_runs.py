"""Run folders as the trainer leaves them, with validation logits of a chosen skill instead of a network's."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali.data.splits import rows_sha256, train_and_validation
from cxrdali.data.targets import targets
from cxrdali.metrics.ranking import score
from cxrdali.predictions import Predictions, Provenance
from cxrdali.runs.layout import CONFIG, FINDING_COLUMNS, FINDINGS, METRIC_COLUMNS, METRICS, PROGRESS, VAL_PREDICTIONS
from cxrdali.runs.progress import Progress
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import names, settings_of
from shards.dataset.packed import PackedDataset
from shards.storage.sealed import sealed_json
from tests.releases import write_release

LABELS = "cxr-lt-2023"


def packed(root: Path, subjects: int = 100) -> PackedDataset:
    """A release of so many subjects, packed at 48 pixels; 60 % of them are in the training split."""
    from shards.packing.options import PackOptions
    from shards.packing.pack import pack
    from shards.releases.open import open_release
    from shards.renditions.rendition import Size

    write_release(root / "release", subjects)
    pack(open_release(root / "release"), root / "pack", PackOptions(sizes=(Size(48),)))
    return PackedDataset.open(root / "pack")


def write_run(folder: Path, dataset: PackedDataset, skill: float, seed: int, done: int = 2, **settings) -> Path:
    """skill: how much higher the logits of images with the finding are, on average, than those of the others."""
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 2, "arch": "test_byobnet", "folds": 2, "labels": LABELS}
    made = settings_of(**{**given, **settings})
    labels = dataset.labels(LABELS)
    train, validation = train_and_validation(dataset, labels, made.data)
    wanted = targets(labels, made.data.uncertain)
    truth, rng = wanted[validation], np.random.default_rng(seed)
    values = (rng.normal(0, 1, truth.shape) + skill * (np.nan_to_num(truth) - 0.5) - 0.5).astype(np.float32)
    config = {
        "settings": made.as_json(),
        "findings": list(labels.findings),
        "dataset": {"id": dataset.id},
        "labels": {"name": LABELS, "sha256": labels.sha256},
        "selection": {
            "train_images": len(train), "val_images": len(validation),
            "train_sha256": rows_sha256(train), "val_sha256": rows_sha256(validation),
        },
        "train_positives": (wanted[train] == 1).sum(axis=0).tolist(),
        "device": "a CPU",
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / CONFIG).write_bytes(sealed_json(config))
    scores = score(labels.findings, truth, values)
    rows = [
        dict.fromkeys(METRIC_COLUMNS, 0.5)
        | {
            "epoch": epoch,
            "LRAP": epoch / 10,
            "mAP": scores.macro_ap / (done + 1 - epoch),
            "images": 1000,
            "train_seconds": 4.0,
        }
        | {"wait_seconds": 1.0, "val_seconds": 1.0}
        for epoch in range(1, done + 1)
    ]
    if done:
        pd.DataFrame(rows).to_csv(folder / METRICS, index=False)
        pd.DataFrame(columns=FINDING_COLUMNS).to_csv(folder / FINDINGS, index=False)
        ids = dataset.catalog.iloc[validation][["image_id", "study_id", "view"]]
        about = Provenance("logit", folder.name, "val", LABELS, dataset.id, "none")
        Predictions(ids, labels.findings, values, about).write(folder / VAL_PREDICTIONS)
    write_progress(folder)
    return folder


def change_config(run: Path, **changes) -> None:
    """Replace values of config.json and what follows from them: `selection__val_sha256="x"` is one inside selection,
    `settings__lr` a setting.
    """
    config = json.loads((run / CONFIG).read_text())
    for name, value in changes.items():
        *outer, last = name.split("__")
        if outer == ["settings"]:
            names().put(config["settings"], {last: value})
            continue
        inside = config
        for key in outer:
            inside = inside[key]
        inside[last] = value
    (run / CONFIG).write_bytes(sealed_json(config))
    if any(name.startswith("settings__") for name in changes):
        write_progress(run)


def write_progress(folder: Path) -> None:
    """progress.json of what metrics.csv and config.json say."""
    run = Run.open(folder)
    done = len(run.metrics)
    best = (int(run.best["epoch"]), float(run.best[run.chosen_by])) if done else (0, None)
    (folder / PROGRESS).write_bytes(sealed_json(asdict(Progress.of(done, *best, run.settings))))
