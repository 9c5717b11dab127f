"""Any one table as a release: a CSV or parquet file, of which the user names the columns.

What a column is called is never guessed. Without a subject column no two images are known to be of one patient, and
without a split column all are for training; both are said.
"""

import csv
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import pandas as pd

from shards.dataset.description import check_label_name
from shards.errors import UserError
from shards.releases.checks import check_paths
from shards.releases.release import TABLE, LabelTable, Release, check_finding_names
from shards.releases.values import finding_table, ids, image_index, splits
from shards.storage.csv import LEFT_OUT, is_unnamed, no_column, read_table
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.table_file import SAVE

ALL_OTHERS = "all others"
TRIED = 100  # paths looked for before packing

_VIEWS = {
    **dict.fromkeys(("frontal", "ap", "pa", "ap_horizontal"), "frontal"),
    **dict.fromkeys(("lateral", "lat", "l", "ll"), "lateral"),
}


@dataclass(frozen=True)
class Columns:
    """The columns of a table by name. `findings` is a comma-separated list (quoted as in a CSV), or "all others": every
    column that has a name and is not named here. `path` is not needed to read labels alone."""

    image_id: str
    findings: str
    path: str | None = None
    subject: str | None = None
    study: str | None = None
    view: str | None = None
    split: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """By the name of the option that gives it."""
        options = {"image_id": "id-column", "findings": "findings"}
        return {f"--{options.get(name, f'{name}-column')}": value for name, value in vars(self).items()}

    def named(self) -> dict[str, str]:
        """Option -> column, without the findings."""
        given = self.as_json().items()
        return {option: column for option, column in given if option != "--findings" and column is not None}


def open_table(file: Location, columns: Columns, root: Location) -> Release:
    """The images and labels of a table; paths in it are relative to `root`, or below it.

    Raises UserError naming file, column and value for a column that is missing, a blank id or path, an image twice, a
    finding, split or view that is not known, a path out of `root`, or if none of the first 100 files is there.
    """
    if not storage_of(root).has_folder():
        raise UserError(f"{root}: no such folder; give the folder that the paths start from with --source")
    table = _read(file, columns)
    image = ids(table, columns.image_id, file)
    subject, study, notes = _groups(table, columns, image, file)
    view, view_notes = _views(table, columns, file)
    images = pd.DataFrame(
        {
            "image_id": image,
            "study_id": study,
            "subject_id": subject,
            "view": view,
            "view_position": table[columns.view].str.strip() if columns.view else "",
            "path": _paths(table, columns, file, root),
        }
    )
    image_index(image, file)
    labels = (_labels(table, columns, file),)
    release = Release(TABLE, root, images, labels, (file,), columns.as_json(), (*notes, *view_notes))
    check_paths(release)
    _check_some_exist(images["path"], columns, file, root)
    return release


def label_table(file: Location, columns: Columns) -> LabelTable:
    """The labels alone, for images that are packed already."""
    return _labels(_read(file, columns), columns, file)


def label_name(file: Location) -> str:
    """The label release is named after its file: "chexpert" of chexpert.csv.gz; without what no command could name, as
    blanks of other kinds, or a dot at the start."""
    name = "".join(letter if letter.isprintable() else " " for letter in unicodedata.normalize("NFC", _stem(file)))
    return " ".join(name.split()).lstrip(". ")


def _stem(file: Location) -> str:
    kinds = r"(\.(csv|tsv|txt|parquet))?(\.(gz|bz2|xz|zst|zip))?$"
    return re.sub(kinds, "", file.name, count=1, flags=re.IGNORECASE)


def _read(file: Location, columns: Columns) -> pd.DataFrame:
    if not storage_of(file).exists():  # before read_table, which would send its reader to a release's page
        raise UserError(f"{file}: no such file; give the table with --table")
    table = read_table(file, unnamed=True, again=SAVE)
    for option, column in columns.named().items():
        if column not in table:
            raise no_column(file, column, table, option)
    if not len(table):
        raise UserError(f"{file}: a header and no image; give the whole table")
    return table


def _findings(table: pd.DataFrame, columns: Columns, file: Location) -> list[str]:
    named = set(columns.named().values())
    if columns.findings.strip() == ALL_OTHERS:
        for column in set(table.attrs[LEFT_OUT]) - named:
            raise UserError(
                f"{file}: column {column!r} {table.attrs[LEFT_OUT][column]}, no finding; name them with --findings"
            )
        found = [column for column in table.columns if column not in named and not is_unnamed(column)]
        if not found:
            raise UserError(f"{file}: no column is left for the findings; name them with --findings")
        return found
    found = [name.strip() for name in next(csv.reader([columns.findings], skipinitialspace=True), []) if name.strip()]
    if not found:
        raise UserError(f"findings {columns.findings!r}: name at least one column, or write {ALL_OTHERS!r}")
    counts = Counter(found)
    for name in found:
        if name not in table:
            raise no_column(file, name, table, "--findings")
        if counts[name] > 1 or name in named:
            raise UserError(f"{file}: column {name!r} is named twice; a column is a finding or something else, once")
    return found


def _labels(table: pd.DataFrame, columns: Columns, file: Location) -> LabelTable:
    findings = _findings(table, columns, file)
    check_finding_names(findings, file)
    index = image_index(ids(table, columns.image_id, file), file)
    split = splits(table[columns.split].str.strip(), file, columns.split) if columns.split else "train"
    labels = finding_table(table, findings, file, index)
    labels.insert(0, "split", split if isinstance(split, str) else split.to_numpy())
    notes = [] if columns.split else ["no --split-column: every image is in the split train"]
    notes += _column_notes(table, columns, findings)
    name = label_name(file)
    if name != _stem(file):
        notes.append(
            f"labels are called {name!r}, as the file's name {ascii(file.name)} could not be typed or read back"
        )
    check_label_name(name, file)
    return LabelTable(name, tuple(findings), labels, (file,), notes=tuple(notes))


def _column_notes(table: pd.DataFrame, columns: Columns, findings: list[str]) -> list[str]:
    """What is said of columns that are no findings, or hold none."""
    notes = []
    unnamed = [name for name in table.columns if is_unnamed(name) and name not in columns.named().values()]
    if unnamed and columns.findings.strip() == ALL_OTHERS:
        notes.append(f"{len(unnamed)} columns without a name are no findings: {', '.join(unnamed[:5])}")
    if blank := [finding for finding in findings if (table[finding].str.strip() == "").all()]:
        notes.append(f"{len(blank)} findings are blank for every image: {', '.join(blank[:5])}")
    return notes


def _groups(
    table: pd.DataFrame, columns: Columns, image: pd.Series, file: Location
) -> tuple[pd.Series, pd.Series, tuple[str, ...]]:
    """Subject and study of every image, and what is said of those that are not known."""
    study = ids(table, columns.study, file) if columns.study else image
    subject = ids(table, columns.subject, file) if columns.subject else study
    notes = []
    if not columns.subject:
        what = "study" if columns.study else "image"
        notes.append(
            f"no --subject-column: every {what} counts as a patient of its own, so folds and splits cannot keep a "
            "patient's images on one side, and scores may be of known patients"
        )
    if not columns.study:
        notes.append("no --study-column: every image counts as a study of its own")
    return subject, study, tuple(notes)


def _views(table: pd.DataFrame, columns: Columns, file: Location) -> tuple[pd.Series | str, tuple[str, ...]]:
    """frontal, lateral or other; a column of other things altogether is refused."""
    if not columns.view:
        return "other", ("no --view-column: every view is other",)
    position = table[columns.view].str.strip()
    view = position.str.lower().map(_VIEWS).fillna("other")
    odd = position[view == "other"].value_counts()
    if odd.sum() == len(position):
        raise UserError(
            f"{file}: column {columns.view!r} (--view-column) has no view; it holds {odd.index[0]!r}, known are "
            f"{', '.join(_VIEWS)}"
        )
    words = ", ".join(f"{value!r} ({count:,})" for value, count in odd.head(5).items())
    return view, (f"view other: {odd.sum():,} images, {words}",) if len(odd) else ()


def _paths(table: pd.DataFrame, columns: Columns, file: Location, root: Location) -> pd.Series:
    paths = table[columns.path].str.strip()
    blank = (paths == "").to_numpy()
    if blank.any():
        line = int(blank.argmax()) + 2
        raise UserError(f"{file}: column {columns.path!r} is blank in line {line}; every image needs its file")
    return paths.str.replace(rf"^(\./+|{re.escape(str(root.absolute()))}/+)", "", regex=True)


def _check_some_exist(paths: pd.Series, columns: Columns, file: Location, root: Location) -> None:
    """A wrong --source would make a reject of every image, after hours of looking."""
    first = paths.iloc[:TRIED]
    if not any(storage_of(root / path).exists() for path in first):
        raise UserError(
            f"{file}: none of the first {len(first):,} files of column {columns.path!r} is in {root}, for example "
            f"{first.iloc[0]!r}; give the folder that the paths start from with --source"
        )
