"""Any one table as a release: a CSV or parquet file, of which the user names the columns.

What a column is called is never guessed. Without a subject column no two images are known to be of one patient, and
without a split column all are for training; both are said.
"""

import csv
import re
import unicodedata
from collections import Counter
from dataclasses import replace

import pandas as pd

from shards.dataset.description import check_label_name
from shards.errors import UserError
from shards.releases.checks import check_paths
from shards.releases.columns import ALL_OTHERS, Columns
from shards.releases.groups import odd_views, with_groups
from shards.releases.ids import ids, line
from shards.releases.join import Rows
from shards.releases.paths import TRIED, is_there, near, relative_paths
from shards.releases.release import TABLE, LabelTable, Release, check_finding_names, mark
from shards.releases.values import finding_table, image_index, splits
from shards.storage.csv import LEFT_OUT, is_unnamed, no_column, read_table
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.table_file import SAVE
from shards.words import are, counted

_VIEWS = {
    **dict.fromkeys(("frontal", "ap", "pa", "ap_horizontal"), "frontal"),
    **dict.fromkeys(("lateral", "lat", "l", "ll"), "lateral"),
}


def open_table(file: Location, columns: Columns, root: Location) -> Release:
    """The images and labels of a table; paths in it are relative to `root`, or below it.

    Raises UserError naming file, column and value for a column that is missing, a blank id or path, an image or a file
    in two rows that are not to be joined, a finding, split or view that is not known, a path out of `root`, or if none
    of the first 100 files is there.
    """
    if not storage_of(root).has_folder():
        raise UserError(f"{root}: no such folder; give the folder that the paths start from with --source")
    table = _read(file, columns)
    image = ids(table, columns.image_id, file)
    paths, notes = _paths(table, columns, file, root)
    rows = Rows.of(paths, columns, file, "the image file")
    subject, study, of_groups = _groups(table, columns, image, rows)
    view, of_views = _views(table, columns, rows)
    images = pd.DataFrame(
        {
            "image_id": image.iloc[rows.first],
            "study_id": study,
            "subject_id": subject,
            "view": view,
            "view_position": rows.one_value(table[columns.view].str.strip(), columns.view) if columns.view else "",
            "path": paths.iloc[rows.first],
        }
    ).reset_index(drop=True)
    labels = (_labels(table, columns, rows, image),)
    notes = (*notes, *rows.note(columns.join_rows, image), *of_groups, *of_views)
    release = Release(TABLE, root, images, labels, (file,), {**columns.as_json(), **mark(root)}, notes)
    check_paths(release)
    _check_some_exist(images["path"], columns, file, root)
    return release


def label_table(file: Location, columns: Columns) -> LabelTable:
    """The labels alone, for images that are packed already."""
    table = _read(file, columns)
    image = ids(table, columns.image_id, file)
    rows = Rows.of(image, columns, file, "image")
    labels = _labels(table, columns, rows, image)
    return replace(labels, notes=(*labels.notes, *rows.note(columns.join_rows, image)))


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


def _labels(table: pd.DataFrame, columns: Columns, rows: Rows, image: pd.Series) -> LabelTable:
    findings, file = _findings(table, columns, rows.file), rows.file
    check_finding_names(findings, file)
    index = image_index(image.iloc[rows.first], file)
    labels = finding_table(table, findings, file, table.index)
    labels = (rows.joined(labels, columns.join_rows) if rows.are_joined else labels).set_axis(index)
    split = rows.one_value(splits(table[columns.split], file, columns.split), columns.split) if columns.split else None
    labels.insert(0, "split", "train" if split is None else split.to_numpy())
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
        notes.append(f"without a name, so no findings: {counted(len(unnamed), 'column')}, {', '.join(unnamed[:5])}")
    if blank := [finding for finding in findings if (table[finding].str.strip() == "").all()]:
        notes.append(f"{are(len(blank), 'finding')} blank for every image: {', '.join(blank[:5])}")
    return notes


def _groups(
    table: pd.DataFrame, columns: Columns, image: pd.Series, rows: Rows
) -> tuple[pd.Series, pd.Series, tuple[str, ...]]:
    """Subject and study of every image, and what is said of those that are not known."""

    def of_images(column: str) -> pd.Series:
        return rows.one_value(ids(table, column, rows.file), column)

    study = of_images(columns.study) if columns.study else None
    subject = of_images(columns.subject) if columns.subject else None
    return with_groups(image.iloc[rows.first], study, subject, ("--study-column", "--subject-column"))


def _views(table: pd.DataFrame, columns: Columns, rows: Rows) -> tuple[pd.Series | str, tuple[str, ...]]:
    """frontal, lateral or other; a column of other things altogether is refused."""
    if not columns.view:
        return "other", ("no --view-column: every view is other",)
    position = rows.one_value(table[columns.view].str.strip(), columns.view)
    view = position.str.lower().map(_VIEWS).fillna("other")
    odd = position[view == "other"].value_counts()
    if odd.sum() == len(position):
        raise UserError(
            f"{rows.file}: column {columns.view!r} (--view-column) has no view; it holds {odd.index[0]!r}, known are "
            f"{', '.join(_VIEWS)}"
        )
    return view, odd_views(position, view)


def _paths(table: pd.DataFrame, columns: Columns, file: Location, root: Location) -> tuple[pd.Series, tuple[str, ...]]:
    paths = table[columns.path]
    blank = (paths.str.strip() == "").to_numpy()
    if blank.any():
        where = line(file, int(blank.argmax()))
        raise UserError(f"{file}: column {columns.path!r} is blank in {where}; every image needs its file")
    return relative_paths(paths, root)


def _check_some_exist(paths: pd.Series, columns: Columns, file: Location, root: Location) -> None:
    """A wrong --source would make a reject of every image, after hours of looking."""
    first = paths.iloc[:TRIED]
    there = next((path for path in first if is_there(root, path)), None)
    if there is None:
        raise UserError(
            f"{file}: none of the first {len(first):,} files of column {columns.path!r} is in {root}, for example "
            f"{first.iloc[0]!r}{near(root, first.iloc[0])}; give the folder that the paths start from with --source"
        )
    if storage_of(root).local and storage_of(root / there).has_folder():
        raise UserError(
            f"{file}: column {columns.path!r} holds {there!r}, which is a folder in {root}; every image needs its file"
        )
