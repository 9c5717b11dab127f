"""Which images are in which group: by sex, age, race, scanner, view, year, pack, and crossings of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from shards.dataset.dataset import Dataset
from shards.errors import UserError
from shards.words import choices

UNKNOWN = "unknown"
# what can be asked for, by the catalog's columns that tell it: of several the first ones that are there
COLUMNS = {
    "sex": ("sex",),
    "age": ("age",),
    "race": ("race",),
    "view": ("view",),
    "view_position": ("view_position",),
    "scanner": ("manufacturer", "model"),
    "year": ("year",),
    "pack": ("pack",),
}


@dataclass(frozen=True, eq=False)
class Dimension:
    """One way to part the images. by: as it was asked for; names: of its groups, unknown last; codes: int64 [n], each
    image's place in `names`; missing: why there are none."""

    by: str
    names: tuple[str, ...] = ()
    codes: np.ndarray | None = None
    missing: str = ""

    def mask(self, place: int) -> np.ndarray:
        """bool [n]: the images of a group."""
        return self.codes == place


def dimensions(dataset: Dataset, rows: np.ndarray, by: Sequence[str], age_bins: Sequence[str]) -> list[Dimension]:
    """The groups of some images.

    Args:
        rows: Catalog rows of the images, int64 [n].
        by: Of COLUMNS each, or several with * between them, for every combination that there is.
        age_bins: Ages in years at which a new bin begins, ascending.

    Raises:
        UserError: for anything else in `by`, and bins that are not ascending.
    """
    edges = [int(edge) if edge.isdecimal() and edge.isascii() else 0 for edge in age_bins]
    if edges != sorted(set(edges)) or any(not 0 < edge < 120 for edge in edges):
        shown = ",".join(age_bins)
        raise UserError(f"age-bins {shown!r}: whole years, ascending, between 0 and 120, as 18,40,60,80")
    for name in (each for one in by for each in one.split("*")):
        if name not in COLUMNS:
            raise UserError(f"by {name!r}: {choices(name, COLUMNS)}, or several with * between them, as sex*age")
    return [_crossed(dataset, rows, one, edges) for one in dict.fromkeys(by)]


def _crossed(dataset: Dataset, rows: np.ndarray, by: str, age_bins: Sequence[int]) -> Dimension:
    names = list(dict.fromkeys(by.split("*")))
    lacking = [name for name in names if not any(map(dataset.has, COLUMNS[name]))]
    if lacking:
        return Dimension(by, missing="; ".join(_how_to_attach(name) for name in lacking))
    parts = [_single(dataset, rows, name, age_bins) for name in names]
    # the place of each combination among all that could be, in the order of the first, then of the second, ...
    places = reduce(lambda place, part: place * len(part[0]) + part[1], parts, np.zeros(len(rows), dtype=np.int64))
    there, codes = np.unique(places, return_inverse=True)
    texts: list[str] = [""]
    for found, _ in parts:
        texts = [f"{before}, {own}" if before else own for before in texts for own in found]
    return Dimension(by, tuple(texts[place] for place in there), codes)


def _single(dataset: Dataset, rows: np.ndarray, name: str, age_bins: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """Names of groups, and each image's place among them: int64 [n]."""
    columns = dataset.of_rows(rows, *filter(dataset.has, COLUMNS[name]))
    if name == "age":
        return _ages(pd.to_numeric(columns["age"]).to_numpy(dtype=np.float64, na_value=np.nan), age_bins)
    words = pd.Series("", columns.index)
    for column in columns:
        own = columns[column].astype("Int64") if column == "year" else columns[column]
        words = (words + " " + own.astype("string").fillna("")).str.strip()
    codes, found = pd.factorize(words.replace("", UNKNOWN), sort=True)
    order = sorted(range(len(found)), key=lambda place: (found[place] == UNKNOWN, place))
    return [found[place] for place in order], np.argsort(order)[codes]


def _ages(ages: np.ndarray, bins: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """A bin holds its lower edge and not its upper one."""
    names = [f"under {bins[0]}"] if bins else ["all ages"]
    names += [f"{low} to {high - 1}" for low, high in zip(bins, bins[1:], strict=False)]
    names += [f"{bins[-1]} and over"] if bins else []
    codes = np.where(np.isnan(ages), len(names), np.searchsorted(bins, np.nan_to_num(ages), side="right"))
    return [*names, UNKNOWN], codes


def _how_to_attach(name: str) -> str:
    if name == "pack":
        return "pack: not measured: the images are of one pack"
    return (
        f"{name}: not measured: no {' or '.join(COLUMNS[name])} is known of these images; attach it (`cxrdali subjects "
        "PACK --subjects FILE`) and evaluate again"
    )
