"""Several tables of predictions for the same images, matched by image_id and by finding."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali import predictions as tables
from cxrdali.predictions import Predictions, Provenance, first_of
from shards.errors import DataError


@dataclass(frozen=True)
class Members:
    """first: the table of paths[0], whose rows and columns all have; values: float32 [K, n, F], logits."""

    paths: tuple[Path, ...]
    first: Predictions
    values: np.ndarray
    provenances: tuple[Provenance, ...]


def short_names(paths: Sequence[Path]) -> list[str]:
    """Each file's name, or all its path where two are called alike."""
    names = [path.name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def read_members(paths: Sequence[Path]) -> Members:
    """Images and findings in the order of the first table.

    Raises DataError for fewer than two tables, for tables of other images, findings, studies, splits or datasets, for
    probabilities, and for one table given twice.
    """
    if len(paths) < 2:
        raise DataError(f"an ensemble of {len(paths)}: give at least two tables of predictions")
    for place, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:place]]:
            raise DataError(f"{path}: is given twice; to count it more than the others, use --weights")
    found = [tables.as_logits(tables.read(path), path) for path in paths]
    for name in ("dataset", "split"):
        _check_same(name, paths, [getattr(member.provenance, name) for member in found])
    first = found[0]
    values = [_aligned(member, first, path, paths[0]) for path, member in zip(paths, found, strict=True)]
    return Members(tuple(paths), first, np.stack(values), tuple(member.provenance for member in found))


def _check_same(name: str, paths: Sequence[Path], values: Sequence[str | None]) -> None:
    """Where it is known at all, it is the same."""
    known = {value: path for path, value in zip(paths, values, strict=True) if value is not None}
    if len(known) > 1:
        (one, at), (other, there) = list(known.items())[:2]
        raise DataError(
            f"{there}: was predicted on {name} {other!r}, {at} on {one!r}; predict both on the same {name} first"
        )


def _aligned(table: Predictions, first: Predictions, path: Path, first_path: Path) -> np.ndarray:
    """The values of `table` in the rows and columns of `first`: float32 [n, F]."""
    for what, theirs, ours in (
        ("finding", table.findings, first.findings),
        ("image", table.ids["image_id"], first.ids["image_id"]),
    ):
        for holder, names, other, others in ((path, theirs, first_path, ours), (first_path, ours, path, theirs)):
            only = pd.Index(names)[~pd.Index(names).isin(others)]
            if len(only):
                raise DataError(
                    f"{holder}: {what} {first_of(only)} is not in {other}; "
                    "give tables of the same split, of models trained on the same labels"
                )
    rows = pd.Index(table.ids["image_id"]).get_indexer(first.ids["image_id"])
    for column in ("study_id", "view"):
        theirs, ours = table.ids[column].to_numpy()[rows], first.ids[column].to_numpy()
        differing = np.flatnonzero(theirs != ours)
        if len(differing):
            images, place = first.ids["image_id"].iloc[differing], differing[0]
            raise DataError(
                f"{path}: {column} of image {first_of(images)} is {theirs[place]!r}, in {first_path} "
                f"{ours[place]!r}; give tables of the same dataset"
            )
    columns = [table.findings.index(name) for name in first.findings]
    return table.values[rows][:, columns]
