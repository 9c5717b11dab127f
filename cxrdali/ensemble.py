"""Several tables of predictions for the same images -> the table of their mean probability, as logits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali import predictions as tables
from cxrdali.pooling import mean_logit
from cxrdali.predictions import Predictions, Provenance, first_of
from shards.errors import DataError


def ensemble(paths: Sequence[Path], weights: Sequence[float] | None = None) -> Predictions:
    """Images and findings in the order of the first table; the others are matched by image_id and by name.

    weights: one per table, above 0 (None: equal). Raises DataError for tables of other images, findings, studies,
    splits or datasets, for probabilities, and for one table given twice.
    """
    if len(paths) < 2:
        raise DataError(f"an ensemble of {len(paths)}: give at least two tables of predictions")
    for place, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:place]]:
            raise DataError(f"{path}: is given twice; to count it more than the others, use --weights")
    members = [tables.as_logits(tables.read(path), path) for path in paths]
    for name in ("dataset", "split"):
        _check_same(name, paths, [getattr(member.provenance, name) for member in members])
    first = members[0]
    values = [_aligned(member, first, path, paths[0]) for path, member in zip(paths, members, strict=True)]
    provenance = _provenance(paths, [member.provenance for member in members], weights)
    return replace(first, values=mean_logit(values, weights), provenance=provenance)


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


def _provenance(paths: Sequence[Path], members: Sequence[Provenance], weights: Sequence[float] | None) -> Provenance:
    """What all members have in common, and which they are. One of them that does not know leaves it unknown."""
    common = {
        name: getattr(members[0], name) if len({getattr(each, name) for each in members}) == 1 else None
        for name in ("split", "labels", "dataset", "tta")
    }
    run = "ensemble of " + ", ".join(each.run or path.name for path, each in zip(paths, members, strict=True))
    before = tuple(f"{path.name}: {text}" for path, each in zip(paths, members, strict=True) for text in each.history)
    mean = f"mean probability of {', '.join(path.name for path in paths)}"
    if weights is not None:
        mean += f" by weights {', '.join(f'{weight:g}' for weight in weights)}"
    return Provenance("logit", run, **common, history=(*before, mean))
