"""The study mean of Yamagishi (CXR-LT 2024): every image of a study gets the mean of two means of probabilities, that
over the study's frontal images and that over its lateral ones.

A study with one kind of view gets its mean. Images of another or no known view take the study's value and give none,
except where a study has no others: then it gets theirs. Nothing is fitted. Views and studies are the catalog's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdali import predictions as tables
from cxrdali.data.splits import group_codes
from cxrdali.predictions import Predictions, mean_logit
from shards.dataset.dataset import Dataset
from shards.words import counted


@dataclass(frozen=True)
class Averaged:
    """Studies by the views that gave their values; taking: images of another or no known view that gave none."""

    both: int
    frontal_only: int
    lateral_only: int
    neither: int
    taking: int


def apply(path: Path, dataset: Dataset) -> tuple[Predictions, Averaged]:
    """The table (logits) with the logit of the study mean for each image; only the table's own images count.

    Raises UserError for probabilities, or images that the dataset does not have.
    """
    table = tables.as_logits(tables.read(path), path)
    rows = tables.catalog_rows(table, path, dataset)
    view = dataset.of_rows(rows, "view")["view"].to_numpy()
    _, study = np.unique(group_codes(dataset, "study")[rows], return_inverse=True)
    frontal, lateral = (np.bincount(study[view == of], minlength=study.max() + 1) > 0 for of in ("frontal", "lateral"))
    known = np.isin(view, ("frontal", "lateral"))
    means = [study_means(table.values, study, of) for of in (view == "frontal", view == "lateral", ~known)]
    values = np.where(
        (frontal & lateral)[:, None], mean_logit(means[:2]), np.where(frontal[:, None], means[0], means[1])
    )
    neither = ~frontal & ~lateral
    values[neither] = means[2][neither]
    done = Averaged(
        both=int((frontal & lateral).sum()),
        frontal_only=int((frontal & ~lateral).sum()),
        lateral_only=int((lateral & ~frontal).sum()),
        neither=int(neither.sum()),
        taking=int((~known & ~neither[study]).sum()),
    )
    step = f"study mean of frontal and lateral mean probabilities: {counted(len(neither), 'study')}"
    return table.after(values[study], step), done


def study_means(values: np.ndarray, study: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Per study the logit of the mean probability of some of its rows: float32 [studies, S] (0 where it has none).

    values: logits, float [n, S]; study: int [n], 0 to studies - 1; of: bool [n], which rows.
    """
    counts = np.bincount(study[of], minlength=study.max() + 1)
    order = np.flatnonzero(of)
    order = order[np.argsort(study[order], kind="stable")]  # one study's rows stand together
    starts = np.cumsum(counts) - counts
    pooled = np.zeros((len(counts), values.shape[1]), dtype=np.float32)
    for count in np.unique(counts[counts > 0]):  # studies with as many of them at once: no loop over studies
        some = np.flatnonzero(counts == count)
        members = order[starts[some] + np.arange(count)[:, None]]  # [count, some]
        pooled[some] = mean_logit(values[members])
    return pooled
