"""What every release turns into: a table of images and any number of label tables.

A reader is one small file with the two functions of `Reader`; `open_release` asks each in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pandas as pd

from shards.errors import DataError

IMAGE_COLUMNS = ("image_id", "study_id", "subject_id", "view", "view_position", "path")
VIEWS = ("frontal", "lateral", "other")
SPLITS = ("train", "dev", "test")
RESERVED = ("row", "split", "image_id", "study_id", "view")  # columns beside the findings


@dataclass(frozen=True)
class LabelTable:
    """One label release: a split and the findings of images. Labels belong here, never to the pixels.

    `table` is indexed by image_id (text) and holds `split` (train / dev / test) and one Int8 column per
    finding, in the release's order: 1 positive, 0 negative, -1 uncertain, missing. `elsewhere` counts the
    labelled images that are not in the release.
    """

    name: str
    findings: tuple[str, ...]
    table: pd.DataFrame
    inputs: tuple[Path, ...]
    elsewhere: int = 0

    def __post_init__(self):
        for finding in self.findings:
            if finding in RESERVED or any(ord(letter) < 32 for letter in finding):
                raise DataError(f"{self.inputs[0]}: {finding!r} cannot be a finding's name; rename the column")

    def restricted_to(self, image_ids: pd.Series) -> "LabelTable":
        """Without the images that the release does not have; their number is kept in `elsewhere`.

        Raises DataError if none is left: the labels are of another data set.
        """
        here = self.table.index.isin(image_ids)
        if not here.any():
            raise DataError(
                f"{self.inputs[0]}: none of its {len(here):,} images is in the release (the first is "
                f"{self.table.index[0]!r}); give the labels of these images"
                if len(here)
                else f"{self.inputs[0]}: a header and no image; download it again"
            )
        return replace(self, table=self.table[here], elsewhere=int((~here).sum()))


@dataclass(frozen=True)
class Release:
    """`images` has the text columns IMAGE_COLUMNS, one row per image; `path` is relative to `root`."""

    name: str
    root: Path
    images: pd.DataFrame
    labels: tuple[LabelTable, ...]
    inputs: tuple[Path, ...]


class Reader(Protocol):
    def recognises(self, root: Path) -> bool:
        """Whether the folder looks like this kind of release."""

    def read(self, root: Path, label_folders: Sequence[Path]) -> Release:
        """Read every table. Raises DataError naming file, column and value."""


def open_release(root: Path, label_folders: Sequence[Path] = ()) -> Release:
    """Read the release in `root`, with the label releases found in it and in `label_folders`."""
    from shards import mimic  # here, because the readers import this file

    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the release's folder with --source")
    for folder in label_folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give a label release's folder with --labels")
    readers: tuple[Reader, ...] = (mimic,)
    for reader in readers:
        if reader.recognises(root):
            return reader.read(root, label_folders)
    raise DataError(
        f"{root}: not a release that cxrdali reads; a MIMIC-CXR-JPG release has {mimic.METADATA} and files/ at its top"
    )


def check_unique(images: pd.DataFrame, path: Path) -> None:
    """An image id names one image; a second one would silently replace the first."""
    doubled = images["image_id"].duplicated()
    if doubled.any():
        first = images.loc[doubled, "image_id"].iloc[0]
        raise DataError(f"{path}: image {first!r} stands in more than one row; keep one of them")
