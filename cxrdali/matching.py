"""Predictions joined to labels: images by id, findings by name, never by position."""

from pathlib import Path

import numpy as np

from cxrdali import predictions as tables
from shards.errors import DataError
from shards.packed import Labels, PackedDataset


def match(
    path: Path, table: tables.Predictions, dataset: PackedDataset, labels: Labels
) -> tuple[np.ndarray, list[int]]:
    """Catalog rows of the table's images, and its columns in the order of the labels' findings.

    Raises DataError for an image that dataset or labels do not have, or a finding that only one side has.
    """
    rows = tables.catalog_rows(table, path, dataset)
    unlisted = [row for row in rows if labels.split[row] is None]
    if unlisted:
        image = dataset.catalog["image_id"].iloc[unlisted[0]]
        raise DataError(
            f"{path}: image {image!r} (and {len(unlisted) - 1} more) is not in labels {labels.name!r}; "
            "predict a split of these labels, or choose others with --labels"
        )
    differing = sorted(set(table.findings) ^ set(labels.findings))
    if differing:
        where = "the predictions" if differing[0] in table.findings else f"labels {labels.name!r}"
        raise DataError(f"{path}: finding {differing[0]!r} is only in {where}; choose the labels it was trained on")
    return rows, [table.findings.index(name) for name in labels.findings]
