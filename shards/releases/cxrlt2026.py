"""The label tables of the CXR-LT 2026 challenge, on images of PadChest.

ImageID,StudyDate_DICOM,PatientID, then a column per finding. Tables are recognised by their names, because only some
are public: *test*, *dev* or *valid*, Removal.csv, and what is left is the training table. The public list of 1,620
images is called ..._TEST_ALL_TASK1.csv and is the development set; it comes with 30 nameless, empty columns. The table
of the 1,400 test images, whose name is not known, is given as a file of its own. Removal.csv names images that are not
to be trained on, every image of the public list among them. Finding names are taken as they stand, mixed case included,
without the blanks and tabs around them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from shards.errors import UserError
from shards.releases.ids import ids
from shards.releases.locate import folders_in
from shards.releases.release import LabelTable
from shards.releases.values import finding_table, image_index
from shards.storage.csv import column_names, is_unnamed, one_line, read_table
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import counted

NAME = "cxr-lt-2026"
IMAGE, PATIENT = "ImageID", "PatientID"
LEADING = (IMAGE, "StudyDate_DICOM", PATIENT)  # every other column is a finding
ORIGINAL_ONLY = ("ImageDir", "StudyID", "Projection")  # columns by which PadChest's own table is told from these
EXPECTED = "a training table of CXR-LT 2026 (ImageID,StudyDate_DICOM,PatientID and the findings)"

_ROLES = (("removal", "removal"), ("test", "test"), ("dev", "dev"), ("valid", "dev"))
_GIVEN = (("removal", "removal"), ("train", "train"), ("test_all", "dev"), ("dev", "dev"), ("valid", "dev"))
_OTHER_TASK = re.compile(r"task[ _-]?[2-9]", re.IGNORECASE)
_FOLDER = re.compile(r"cxr[ _-]?lt", re.IGNORECASE)
_CSV = (".csv", ".csv.gz")


@dataclass(frozen=True)
class PatientLabels(LabelTable):
    """The label release, and of every table but Removal.csv its own rows with the column PatientID, by image."""

    rows: dict[Location, pd.DataFrame] = field(default_factory=dict)


def find(folder: Location, files: Sequence[Location] = ()) -> list[PatientLabels]:
    """The tables in `folder`, or in the first folder below it that is named after the challenge, as one; may be none.

    files: Further tables, which belong to those in the folder: of the test images, whatever they are called.

    Raises UserError naming file, column and value, if an image is in two tables, a training table has a column
    without a name, or a test table's columns are not the training table's findings.
    """
    place, paths = _place(folder)
    given = {storage_of(file).real_path() for file in files}
    paths = [path for path in paths if storage_of(path).real_path() not in given]
    return [_read(place, paths, files)] if paths else []


def is_in(folder: Location) -> bool:
    """Whether `find` would read any table, told from first lines alone."""
    return bool(_place(folder)[1])


def csv_files(folder: Location) -> list[Location]:
    """The CSV tables of a folder, by name: images may lie beside them."""
    names = sorted(entry.name for entry in storage_of(folder).entries())
    return [folder / name for name in names if name.lower().endswith(_CSV)]


def _place(folder: Location) -> tuple[Location, list[Location]]:
    below = (place for place in folders_in(folder) if _FOLDER.search(place.name))
    return next(((place, paths) for place in (folder, *below) if (paths := _paths(place))), (folder, []))


def _paths(folder: Location) -> list[Location]:
    found, removal = [], []
    for path in csv_files(folder):
        if _role(path) == "removal":
            removal.append(path)  # whatever its columns: unread, it would let test images into training
        elif {IMAGE, PATIENT} <= set(column_names(path)) and not _is_original(path):
            found.append(path)
    return found + removal if found else []


def _is_original(path: Location) -> bool:
    return not set(ORIGINAL_ONLY).isdisjoint(column_names(path))


def _role(path: Location, roles: Sequence[tuple[str, str]] = _ROLES, otherwise: str = "train") -> str:
    return next((role for word, role in roles if word in path.name.lower()), otherwise)


def _is_public_list(path: Location) -> bool:
    """Whether no label of a table is known: its columns of findings are empty, or not there."""
    table = read_table(path, unnamed=True)
    return all((table[column].str.strip() == "").all() for column in table.columns if column not in LEADING)


def _read(folder: Location, paths: list[Location], files: Sequence[Location] = ()) -> PatientLabels:
    roles: dict[str, Location] = {}
    read = {path.name for path in (*paths, *files)}
    others = [path.name for path in csv_files(folder) if path.name not in read and not _is_original(path)]
    notes = [f"not read, as they are no tables of the challenge: {', '.join(others)}"] if others else []
    apart = any(_role(path) == "dev" for path in paths)  # then a table called test is what it is called
    for path in (*paths, *files):
        role = _role(path) if path in paths else _role(path, _GIVEN, "test")
        if _OTHER_TASK.search(path.name) and path in paths:
            notes.append(f"{path.name} is not read: another task's findings have no training labels")
            continue
        if role == "test" and path in paths and not apart and _is_public_list(path):
            role = "dev"
            notes.append(
                f"{path.name}: has no label, so it is the development split (dev), as the challenge's public list of "
                "1,620 images is; give the table of the test images as --labels FILE"
            )
        if role in roles:
            more = "" if role in ("train", "removal") else "; the table of the test images is given as --labels FILE"
            raise UserError(f"{path}: a second {role} table beside {roles[role].name}; keep one of them{more}")
        roles[role] = path
    if "train" not in roles:
        raise UserError(f"{folder}: {paths[0].name} without a training table; put the training table beside it")
    parts = {
        role: _table(path, (IMAGE,) if path in files or role == "removal" else (IMAGE, PATIENT))
        for role, path in roles.items()
    }
    findings = _findings(parts["train"], roles["train"])
    labels = {"train": finding_table(parts["train"], findings, roles["train"], parts["train"].index)}
    for role in ("dev", "test"):
        if role in roles:
            labels[role] = _held_out(parts[role], findings, roles[role], roles["train"], notes)
    labels["train"] = _without_removed(labels, parts, roles, notes)
    table = pd.concat([part.assign(split=role) for role, part in labels.items()])
    table = table.reindex(columns=["split", *findings])
    inputs = tuple(roles[role] for role in ("train", "dev", "test", "removal") if role in roles)
    rows = {roles[role]: parts[role].loc[labels[role].index].filter([PATIENT]) for role in labels}
    return PatientLabels(NAME, tuple(findings), table, inputs, notes=tuple(notes), rows=rows)


def _table(path: Location, required: tuple[str, ...]) -> pd.DataFrame:
    table = read_table(path, required, unnamed=True)
    table.index = image_index(ids(table, IMAGE, path), path)
    return table


def _findings(table: pd.DataFrame, path: Location) -> list[str]:
    columns = [column for column in table.columns if column not in LEADING]
    if nameless := [column for column in columns if is_unnamed(column)]:
        place = list(table.columns).index(nameless[0]) + 1
        raise UserError(
            f"{path}: {len(nameless)} of its {len(columns)} columns of findings have no name, the first is column "
            f"{place}; write the release's list of findings into the first line"
        )
    if not columns:
        raise UserError(f"{path}: no column of a finding; found {one_line(', '.join(table.columns))}")
    return columns


def _held_out(
    table: pd.DataFrame, findings: list[str], path: Location, train: Location, notes: list[str]
) -> pd.DataFrame:
    """A development or test table in the training table's findings: by name, or all blank, with or without columns."""
    columns = [column for column in table.columns if column not in LEADING]
    nameless = [column for column in columns if is_unnamed(column)]
    if columns and not nameless:
        if differing := sorted(set(columns) ^ set(findings)):
            raise UserError(f"{path}: finding {differing[0]!r} is not in both this file and {train}")
        return finding_table(table, findings, path, table.index)
    if len(columns) not in (0, len(findings)) or len(nameless) != len(columns):
        raise UserError(
            f"{path}: {len(nameless)} of its {len(columns)} columns of findings have no name, and {train.name} has "
            f"{len(findings)} findings; write their names into the first line"
        )
    filled = [column for column in nameless if (table[column].str.strip() != "").any()]
    if filled:
        place = list(table.columns).index(filled[0]) + 1
        raise UserError(
            f"{path}: column {place} has values and no name, and findings are never matched by place; write the "
            "findings' names into the first line"
        )
    what = f"its {len(nameless)} columns of findings have no name and no value" if nameless else "it has no findings"
    notes.append(f"{path.name}: {what}; no known label of its {counted(len(table), 'image')}")
    blank = pd.array([pd.NA] * len(table), dtype="Int8")
    return pd.DataFrame(dict.fromkeys(findings, blank), index=table.index)


def _without_removed(labels: dict, parts: dict, roles: dict, notes: list[str]) -> pd.DataFrame:
    """The training table without the images of Removal.csv. Raises UserError if an image is left in two tables."""
    train = labels["train"]
    if "removal" in roles:
        removed = train.index.isin(parts["removal"].index)
        held = sum(
            int(labels[role].index.isin(parts["removal"].index).sum()) for role in ("dev", "test") if role in labels
        )
        train = train[~removed]
        notes.append(
            f"{roles['removal'].name}: left out of training: {counted(removed.sum(), 'image')} of "
            f"{roles['train'].name}; {held:,} of its {len(parts['removal']):,} images are in the development or test "
            "table and stay there"
        )
    else:
        notes.append("no Removal.csv beside the training table: no image is left out of training")
    held_out = [role for role in ("dev", "test") if role in labels]
    for role, before in (*((role, "train") for role in held_out), *([("test", "dev")] if len(held_out) == 2 else [])):
        both = labels[role].index.intersection((train if before == "train" else labels[before]).index)
        if len(both):
            missing = "" if "removal" in roles else "put the release's Removal.csv beside them, or "
            raise UserError(
                f"{roles[role]}: image {both[0]!r} is also in {roles[before]}, {counted(len(both), 'image')} in all; "
                f"an image has one split; {missing}remove the rows from one of them"
            )
    if not len(train):
        raise UserError(f"{roles['train']}: no image is left for training; give the release's own training table")
    return train
