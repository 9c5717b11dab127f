"""What every release turns into: a table of images and any number of label tables.

A reader is one small file with the two functions of `Reader`; `open_release` asks each in turn.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from shards.errors import DataError
from shards.remote import has_folder, is_remote
from shards.tables import rows_of

IMAGE_COLUMNS = ("image_id", "study_id", "subject_id", "view", "view_position", "path")
VIEWS = ("frontal", "lateral", "other")
SPLITS = ("train", "dev", "test")
RESERVED = ("row", "split", "image_id", "study_id", "view")  # columns beside the findings


@dataclass(frozen=True)
class LabelTable:
    """One label release: a split and the findings of images. Labels belong here, never to the pixels.

    `table` is indexed by image_id (text) and holds `split` (train / dev / test) and one Int8 column per
    finding, in the release's order: 1 positive, 0 negative, -1 uncertain, missing. `elsewhere` counts the
    labelled images that are not in the release. `notes` are lines for the user: which reading of an unclear table
    was found, and what was left out.
    """

    name: str
    findings: tuple[str, ...]
    table: pd.DataFrame
    inputs: tuple[Path, ...]
    elsewhere: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        for finding in self.findings:
            if finding in RESERVED or any(ord(letter) < 32 for letter in finding):
                raise DataError(f"{self.inputs[0]}: {finding!r} cannot be a finding's name; rename the column")

    def places(self, image_ids: pd.Series) -> np.ndarray:
        """int64 [images]: their rows in `table`; -1 for an image without labels."""
        return rows_of(image_ids, self.table.index)

    def restricted_to(self, image_ids: pd.Series) -> "LabelTable":
        """Without the images that the release does not have; their number is kept in `elsewhere`.

        Raises DataError if none is left: the labels are of another data set.
        """
        here = rows_of(self.table.index, image_ids) >= 0
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
    """`images` has the text columns IMAGE_COLUMNS, one row per image; `path` is relative to `root`.

    It may have the column `inverted` (bool): the file is MONOCHROME1, its 0 is white. `reading` are the options that
    the tables were read with; they decide bytes as the tables do. `notes` are lines for the user.
    """

    name: str
    root: Path
    images: pd.DataFrame
    labels: tuple[LabelTable, ...]
    inputs: tuple[Path, ...]
    reading: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    def recognises(self, root: Path) -> bool:
        """Whether the folder looks like this kind of release."""

    def read(self, root: Path, label_folders: Sequence[Path]) -> Release:
        """Read every table. Raises DataError naming file, column and value."""

    def label_tables(self, folder: Path, images: pd.DataFrame) -> list[LabelTable]:
        """The label releases in a folder, for `images` with the columns image_id, study_id, subject_id; may be none."""


TABLE = "table"  # the release of any one table, which is not recognised but named (`shards.table`)


def _readers() -> dict[str, Reader]:
    from shards import mimic, nih, padchest  # here, because the readers import this file

    return {reader.NAME: reader for reader in (mimic, nih, padchest)}


def open_release(root: Path, label_folders: Sequence[Path] = ()) -> Release:
    """Read the release in `root`, with the label releases found in it and in `label_folders`."""
    if not has_folder(root):
        raise DataError(f"{root}: no such folder; give the release's folder with --source")
    for reader in _readers().values():
        if reader.recognises(root):
            release = reader.read(root, label_folders)
            check_paths(release)
            return release
    from shards import mimic, nih, padchest

    raise DataError(
        f"{root}: not a release that cxrdali reads; a MIMIC-CXR-JPG release has {mimic.METADATA} and files/ at its "
        f"top, CXR-LT 2026 {padchest.EXPECTED}, ChestX-ray14 {nih.EXPECTED}; for any other give --table FILE"
    )


def read_labels(release: str, folder: Path, images: pd.DataFrame) -> list[LabelTable]:
    """The label releases in `folder` for the images of a release by its name, restricted to those images.

    Raises DataError if the folder holds none, or one of other images.
    """
    return [table.restricted_to(images["image_id"]) for table in find_labels(release, folder, images)]


def find_labels(release: str, folder: Path, images: pd.DataFrame | None) -> list[LabelTable]:
    """The same with the images that the release does not have, for readers that take their images from labels."""
    if not has_folder(folder):
        raise DataError(f"{folder}: no such folder; give a label release's folder with --labels")
    if release == TABLE:
        raise DataError(
            f"{folder}: the images were packed from a table of their own, so no label release fits them; give the "
            "labels as --table FILE --id-column COLUMN --findings LIST"
        )
    reader = _readers()[release]
    found = reader.label_tables(folder, images)
    if not found:
        raise DataError(f"{folder}: no label table; give a folder that holds {reader.LABEL_FILES}")
    return found


def first_of_each_name(tables: Iterable[LabelTable]) -> tuple[LabelTable, ...]:
    """Without a label release that was found twice, as in the source and by --labels: the first one stays."""
    by_name: dict[str, LabelTable] = {}
    for table in tables:
        by_name.setdefault(table.name, table)
    return tuple(by_name.values())


def check_paths(release: Release) -> None:
    """Paths come from a table; none may leave the release's folder or hide in its listing."""
    paths = release.images["path"]
    bad = paths.str.contains(r"^/|(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f]", regex=True)
    if bad.any():
        raise DataError(
            f"{release.inputs[0]}: the path {paths[bad].iloc[0]!r} leaves the release's folder or is no plain path; "
            "correct the table"
        )


def check_links(release: Release) -> None:
    """Refuse folders that are links to another place, at the two levels where people put them.

    A link further down is looked at when its image is read: 400,000 looks would take minutes on a network disk.
    A store has no links.
    """
    if is_remote(release.root):
        return
    inside = os.path.realpath(release.root)
    parts = [folder.split("/") for folder in release.images["path"].str.rpartition("/")[0].unique() if folder]
    for folder in sorted({part[0] for part in parts} | {"/".join(part[:2]) for part in parts}):
        real = os.path.realpath(release.root / folder)
        if not real.startswith(f"{inside}{os.sep}"):
            raise DataError(
                f"{release.root / folder}: a link out of the release, to {real}; "
                "give --allow-links if that is where your images are"
            )


def check_subjects(table: LabelTable, images: pd.DataFrame) -> None:
    """Refuse a label release in which a subject has images in two splits: its scores would be of known patients."""
    rows = rows_of(table.table.index, images["image_id"])
    subject = images["subject_id"].iloc[rows].set_axis(table.table.index).where(rows >= 0)
    splits = table.table["split"].groupby(subject.to_numpy()).nunique()
    doubled = splits.index[splits > 1]
    if not len(doubled):
        return
    where = sorted(table.table["split"][(subject == doubled[0]).to_numpy()].dropna().unique())
    raise DataError(
        f"{table.inputs[0]}: subject {doubled[0]!r} is in the splits {' and '.join(where)} of labels {table.name!r}, "
        f"as are {len(doubled):,} subjects in all; correct the table, or go on with --allow-subject-overlap"
    )


def check_unique(images: pd.DataFrame, path: Path) -> None:
    """An image id names one image; a second one would silently replace the first."""
    doubled = images["image_id"].duplicated()
    if doubled.any():
        first = images.loc[doubled, "image_id"].iloc[0]
        raise DataError(f"{path}: image {first!r} stands in more than one row; keep one of them")
