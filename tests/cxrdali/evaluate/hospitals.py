"""Hospitals without images: a catalog, labels and logits of a chosen skill, for what follows from these alone."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from cxrdali.evaluate.place import Place
from cxrdali.predictions import Predictions, Provenance
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset

FINDINGS = ("A", "B", "C")
RUN = SimpleNamespace(
    name="run", train_positives={"A": 400, "B": 50, "C": 5, "D": 1}, needed=lambda *_: 1000
)  # fmt: skip


def hospital(folder, name, prevalence, patients=400, seed=0, findings=FINDINGS, shift=0.0, **provenance):
    """A place of 2 images a patient, whose logits are calibrated at a prevalence of 0.3, but for a `shift`.

    Given the finding or not, logits are the same everywhere: the log likelihood ratio of N(1, 1) and N(-1, 1) values,
    and the log odds of 0.3. So only the prevalence differs between hospitals.
    """
    rng, images = np.random.default_rng(seed), 2 * patients
    patient = np.arange(images) // 2
    ids = pd.DataFrame({
        "image_id": [f"{name}{number}" for number in range(images)],
        "subject_id": [f"{name}{number}" for number in patient],
        "study_id": [f"{name}s{number}" for number in range(images)],
        "view": "frontal",
    })  # fmt: skip
    truth = rng.random((images, len(findings))) < prevalence
    values = 2 * (rng.normal(size=truth.shape) + np.where(truth, 1, -1)) + np.log(0.3 / 0.7) + shift
    dataset = PackedDataset(folder / name, {"id": name, "options": {}, "counts": {"planned": images}})
    dataset.__dict__.update({"catalog": ids, "packed": np.ones(images, dtype=bool)})
    labels = Labels("l", findings, np.array(["test"] * images, dtype=object), truth.astype(np.int8), "0")
    path = folder / f"{name}.parquet"
    about = Provenance("logit", "run", "test", "l", name, "none", seen=(), **provenance)
    Predictions(ids[["image_id", "study_id", "view"]], findings, values.astype(np.float32), about).write(path)
    return Place(name, path, dataset, labels)
