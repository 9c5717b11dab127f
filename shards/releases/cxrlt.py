"""The label tables of the CXR-LT challenges on MIMIC-CXR-JPG.

2023: train.csv, development.csv, test.csv with 26 findings and a `path` column. 2024: the files of task 1
with 40 findings and an `fpath` column, and labels.csv with all 45 and a `split` column. Images are joined by
id, findings by name. Development and test tables may lack the findings (as during the challenges): blank.
"""

import pandas as pd

from shards.errors import UserError
from shards.releases.ids import ids
from shards.releases.locate import folders_in, table_in
from shards.releases.release import LabelTable
from shards.releases.values import finding_table, image_index, splits
from shards.storage.csv import no_column, one_line, read_table
from shards.storage.location import Location

# Every other column of a CXR-LT table is a finding.
NOT_FINDINGS = {
    "dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "path", "fpath", "split",
}  # fmt: skip
# label release -> per split the file names that may hold it, the labelled one first
FILES = {
    "cxr-lt-2023": {"train": ["train.csv"], "dev": ["development.csv"], "test": ["test.csv"]},
    "cxr-lt-2024": {
        "train": ["train_labeled.csv"],
        "dev": ["development_labeled_task1.csv", "development_task1.csv"],
        "test": ["test_labeled_task1.csv", "test_task1.csv"],
    },
}
SUFFIX = r"\.(?i:jpe?g|png|dcm)$"  # ids may hold dots
ALL_2024 = "labels.csv"
EXPECTED = "train.csv (CXR-LT 2023), train_labeled.csv or labels.csv (2024)"


def find(folder: Location) -> list[LabelTable]:
    """Every CXR-LT table in `folder`, its sub-folders cxr-lt-2023 and cxr-lt-2024, or one level below."""
    below = folders_in(folder)

    def place_of(name: str, file: str) -> Location | None:
        places = (folder, folder / name, *(each / name for each in below))
        return next((place for place in places if table_in(place, file)), None)

    found = {name: place_of(name, files["train"][0]) for name, files in FILES.items()}
    tables = [_read_splits(name, place, FILES[name]) for name, place in found.items() if place is not None]
    place = place_of("cxr-lt-2024", ALL_2024)
    path = None if place is None else table_in(place, ALL_2024)
    return tables if path is None else [*tables, _read_all(path)]


def _read_splits(name: str, folder: Location, files: dict[str, list[str]]) -> LabelTable:
    parts: list[pd.DataFrame] = []
    inputs: list[Location] = []
    findings: list[str] = []
    for split, names in files.items():
        path = table_in(folder, *names)
        if path is None:
            continue
        part = _read_file(path).assign(split=split)
        own = _findings(part)
        if not parts:
            findings = own
        elif own and set(own) != set(findings):
            differing = sorted(set(own) ^ set(findings))
            raise UserError(f"{path}: finding {differing[0]!r} is not in both this file and {inputs[0]}")
        parts.append(part)
        inputs.append(path)
    for place, part in enumerate(parts):
        for before, path in zip(parts[:place], inputs, strict=False):
            both = part.index.intersection(before.index)
            if len(both):
                raise UserError(f"{inputs[place]}: image {both[0]!r} is also in {path}; an image has one split")
    return _table(name, pd.concat(parts), findings, inputs)


def _read_all(path: Location) -> LabelTable:
    table = _read_file(path)
    if "split" not in table:
        raise no_column(path, "split", table)
    table["split"] = splits(table["split"], path)
    return _table("cxr-lt-2024-all", table, _findings(table), [path])


def _read_file(path: Location) -> pd.DataFrame:
    table = read_table(path)
    if "dicom_id" in table:
        image = ids(table, "dicom_id", path)
    else:
        column = next((c for c in ("path", "fpath") if c in table), None)
        if column is None:
            raise no_column(path, "dicom_id", table)
        image = ids(table, column, path).str.rsplit("/", n=1).str[-1].str.replace(SUFFIX, "", regex=True)
        if (image == "").any():
            line = int((image == "").to_numpy().argmax()) + 2
            raise UserError(f"{path}: column {column!r} names no file in line {line}; every image needs one")
    labels = finding_table(table, _findings(table), path, image_index(image, path))
    return labels.assign(split=table["split"].to_numpy()) if "split" in table else labels


def _findings(table: pd.DataFrame) -> list[str]:
    return [column for column in table.columns if column not in NOT_FINDINGS]


def _table(name: str, table: pd.DataFrame, findings: list[str], inputs: list[Location]) -> LabelTable:
    if not findings:
        raise UserError(f"{inputs[0]}: no column of a finding; found {one_line(', '.join(table.columns))}")
    table = table.reindex(columns=["split", *findings])
    table[findings] = table[findings].astype("Int8")
    return LabelTable(name, tuple(findings), table, tuple(inputs))
