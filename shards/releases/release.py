"""What every release turns into: a table of images and any number of label tables.

A kind of release is one file in this folder, with a `Reader` called READER.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from shards.errors import UserError
from shards.releases.ids import alike
from shards.releases.values import check_filled, rows_of
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import counted

IMAGE_COLUMNS = ("image_id", "study_id", "subject_id", "view", "view_position", "path")
VIEWS = ("frontal", "lateral", "other")
SPLITS = ("train", "dev", "test")
SYNTHETIC = "SYNTHETIC.txt"  # in a release that `cxrdali synth` wrote: the dataset, and what is made from it, say so
TABLE = "table"  # the release of any one table, which is not recognised but named (`shards.releases.table`)
RESERVED = ("row", "split", "image_id", "study_id", "view")  # columns beside the findings


def check_finding_names(findings: Iterable[str], file: Location | str) -> None:
    """Raises UserError for a name of the columns beside the findings, and for one that breaks or steers a line."""
    for finding in findings:
        if finding in RESERVED or re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", finding):
            raise UserError(f"{file}: {finding!r} cannot be a finding's name; rename the column")


@dataclass(frozen=True)
class LabelTable:
    """One label release: a split and the findings of images. Labels belong here, never to the pixels.

    `table` is indexed by image_id (text) and holds `split` (train / dev / test) and one Int8 column per
    finding, in the release's order: 1 positive, 0 negative, -1 uncertain, missing. `elsewhere` counts the
    labelled images that are not in the release. `notes` are lines for the user: which reading of an unclear table
    was found, and what was left out. `pseudo`: of labels that a run predicted, metadata of their file
    (`shards.dataset.labels`); the columns may then hold probabilities, Float32.
    """

    name: str
    findings: tuple[str, ...]
    table: pd.DataFrame
    inputs: tuple[Location, ...]
    elsewhere: int = 0
    notes: tuple[str, ...] = ()
    pseudo: Mapping[bytes, bytes] | None = None

    def __post_init__(self):
        check_finding_names(self.findings, self.source)

    @property
    def source(self) -> Location | str:
        """Its first table, for messages; without one, what it is called."""
        return self.inputs[0] if self.inputs else f"labels {self.name}"

    def places(self, image_ids: pd.Series) -> np.ndarray:
        """int64 [images]: their rows in `table`; -1 for an image without labels."""
        return rows_of(image_ids, self.table.index)

    def restricted_to(self, image_ids: pd.Series) -> "LabelTable":
        """Without the images that the release does not have; their number is kept in `elsewhere`, and a note says it if
        ids may be written otherwise there.

        Raises UserError if none is left: the labels are of another data set.
        """
        check_filled(self.table, self.source)
        here = rows_of(self.table.index, image_ids) >= 0
        unlabelled = image_ids[self.places(image_ids) < 0]
        found = alike(self.table.index[~here], unlabelled) if len(unlabelled) and not here.all() else None
        words = found and (
            f"{found[0]!r} is not in the release, but {found[1]!r} is, and so of {found[2]:,} images in all: are their "
            "ids the same, without zeros or letters before, or a suffix? Write them the same way"
        )
        if not here.any():
            raise UserError(
                f"{self.source}: none of its {counted(len(here), 'image')} is in the release (the first is "
                f"{self.table.index[0]!r}); {words or 'give the labels of these images'}"
            )
        file = self.inputs[0].name if self.inputs else self.source
        notes = (*self.notes, f"{file}: {words}") if words else self.notes
        return replace(self, table=self.table[here], elsewhere=self.elsewhere + int((~here).sum()), notes=notes)


def image_table(
    image: pd.Series,
    study: pd.Series,
    subject: pd.Series,
    position: pd.Series,
    frontal: Sequence[str] = (),
    lateral: Sequence[str] = (),
) -> pd.DataFrame:
    """IMAGE_COLUMNS without the path. frontal, lateral: the view positions of these views; any other is "other"."""
    views = {**dict.fromkeys(frontal, "frontal"), **dict.fromkeys(lateral, "lateral")}
    return pd.DataFrame(
        {
            "image_id": image,
            "study_id": study,
            "subject_id": subject,
            "view": position.map(lambda name: views.get(name, "other")),
            "view_position": position,
        }
    )


@dataclass(frozen=True)
class Release:
    """`images` has the text columns IMAGE_COLUMNS, one row per image; `path` is relative to `root`.

    It may have the column `inverted` (bool): the file is MONOCHROME1, its 0 is white; and the text columns of
    `shards.releases.people.PEOPLE`, of which a blank is not known. `reading` are the options that
    the tables were read with; they decide bytes as the tables do. `notes` are lines for the user.
    """

    name: str
    root: Location
    images: pd.DataFrame
    labels: tuple[LabelTable, ...]
    inputs: tuple[Location, ...]
    reading: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def mark(root: Location) -> dict[str, object]:
    """What `Release.reading` says of a synthetic release."""
    return {"synthetic": True} if storage_of(root / SYNTHETIC).exists() else {}


@dataclass(frozen=True)
class Reader:
    """A kind of release. The registry (`shards.releases.open`) finds it as READER in a file of this folder.

    Attributes:
        name: As written in dataset.json.
        order: Readers are asked in ascending order whether they know a folder.
        folders, label_files: What a folder of the release, and one of its labels, holds; for messages.
        recognises: Whether a folder looks like this kind of release.
        read: The release in a folder, with the labels in further folders. Raises UserError naming file, column and
            value.
        label_tables: The label releases in a folder, for images with the columns image_id, study_id and subject_id
            (None while a release is read whose images come from its labels); may be none.
        with_files: The same with tables that were given as files, beside those in the folder, if this kind has any.
        title, needs: What it is, and what must be on the disk, for a list; declaration: its TOML, if it is declared.
    """

    name: str
    order: int
    folders: str
    label_files: str
    recognises: Callable[[Location], bool]
    read: Callable[[Location, Sequence[Location]], Release]
    label_tables: Callable[[Location, pd.DataFrame | None], Sequence[LabelTable]]
    title: str = ""
    needs: str = ""
    declaration: str = ""
    with_files: Callable[[Location, pd.DataFrame | None, Sequence[Location]], Sequence[LabelTable]] | None = None

    def labels_at(self, places: Sequence[Location], images: pd.DataFrame | None) -> list[LabelTable]:
        """The label releases in folders that were given for them. A file among these is a table that belongs to the
        first folder that it can belong to. Raises UserError for a folder without any."""
        files, found = files_of(places), list[LabelTable]()
        for folder in (place for place in places if place not in files):
            found += self.labels_in(
                folder, images, () if any(set(files) & {*table.inputs} for table in found) else files
            )
        return found

    def labels_in(
        self, folder: Location, images: pd.DataFrame | None, files: Sequence[Location] = ()
    ) -> Sequence[LabelTable]:
        """The label releases in a folder that was given for them. Raises UserError if there is none."""
        if not storage_of(folder).has_folder():
            raise UserError(f"{folder}: no such folder; give a label release's folder with --labels")
        found = self.with_files(folder, images, files) if self.with_files else self.label_tables(folder, images)
        if not found:
            raise UserError(f"{folder}: no label table; give a folder that holds {self.label_files}")
        return found


def files_of(places: Sequence[Location]) -> list[Location]:
    """Those of --labels that are tables, no folders."""
    return [place for place in places if storage_of(place).exists() and not storage_of(place).has_folder()]


def check_read(files: Sequence[Location], labels: Iterable[LabelTable], holds: str) -> None:
    """Raises UserError for a file of --labels that no label release was made of; holds: what a folder of labels has."""
    read = {path for table in labels for path in table.inputs}
    if lost := [file for file in files if file not in read]:
        raise UserError(f"{lost[0]}: a table that belongs to no label release here; give the folder that holds {holds}")


def first_of_each_name(tables: Iterable[LabelTable]) -> tuple[LabelTable, ...]:
    """Without a label release that was found twice, as in the source and by --labels: the first one stays."""
    by_name: dict[str, LabelTable] = {}
    for table in tables:
        by_name.setdefault(table.name, table)
    return tuple(by_name.values())
