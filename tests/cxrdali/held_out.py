"""Tables of predictions with labels over the packed test release, for what is fitted to them."""

import numpy as np

from cxrdali.predictions import Predictions, Provenance
from shards.storage.sidecar import beside
from tests.releases import FINDINGS


def written(path, dataset, split="val", of="train", seed=0, findings=FINDINGS, **provenance):
    """A table of informative, overconfident logits for the images of released split `of`, said to be of `split`; a CSV
    says nothing.

    Returns the catalog's rows and the labels' values (int8) in the order of FINDINGS.
    """
    labels = dataset.labels("cxr-lt-2023")
    rows = np.flatnonzero((labels.split == of) & dataset.packed)
    truth = labels.values[rows]
    rng = np.random.default_rng(seed)
    values = (3 * rng.normal(size=truth.shape) + 4 * truth - 1).astype(np.float32)
    ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]]
    about = Provenance(
        **{"kind": "logit", "run": "m", "split": split, "labels": labels.name, "tta": "none"} | provenance
    )
    places = [FINDINGS.index(name) for name in findings]
    Predictions(ids, tuple(findings), values[:, places], about).write(path)
    if path.suffix == ".csv":  # as one of another program, which says nothing of itself
        beside(path).unlink()
    return rows, truth
