"""NIH ChestX-ray14: Data_Entry_2017.csv or Data_Entry_2017_v2020.csv, and its lists of training and test images.

The two tables disagree in places, so each is a label release of its own, and the newer is the default. "No Finding"
is a finding as in the tables. Images are flat, in images/, or in images_001/images to images_012/images.
"""

from collections.abc import Sequence

import pandas as pd

from shards.errors import UserError
from shards.releases.ids import ids
from shards.releases.locate import image_paths, table_in
from shards.releases.people import people_of
from shards.releases.release import LabelTable, Reader, Release, first_of_each_name, image_table
from shards.releases.values import check_filled, check_index, image_index
from shards.storage.csv import is_unnamed, read_table
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import are, counted

ENTRIES = {"chestx-ray14-v2020": "Data_Entry_2017_v2020.csv", "chestx-ray14": "Data_Entry_2017.csv"}
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
EXPECTED = " or ".join(ENTRIES.values())

IMAGE, LABELS, FOLLOW_UP, PATIENT, VIEW = "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position"
FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "No Finding"),
)


def recognises(root: Location) -> bool:
    return bool(_entries(root))


def read(root: Location, label_folders: Sequence[Location]) -> Release:
    path = next(iter(_entries(root).values()))
    images, notes = _images(path)
    images["path"] = image_paths(root, images["image_id"], path)
    labels = READER.labels_at(label_folders, images)
    labels += label_tables(root, images)
    here = first_of_each_name(table.restricted_to(images["image_id"]) for table in labels)
    return Release(READER.name, root, images, here, (path,), notes=notes)


def label_tables(folder: Location, images: pd.DataFrame | None) -> list[LabelTable]:
    return [_labels(name, path, folder) for name, path in _entries(folder).items()]


def _entries(folder: Location) -> dict[str, Location]:
    """The tables that are there, the newer first."""
    return {name: path for name, file in ENTRIES.items() if (path := table_in(folder, file))}


def _table(path: Location) -> pd.DataFrame:
    """As text; the older table's trailing column without a name must be empty."""
    table = read_table(path, (IMAGE, LABELS, FOLLOW_UP, PATIENT, VIEW), unnamed=True)
    for column in filter(is_unnamed, table.columns):
        filled = (table[column].str.strip() != "").to_numpy()
        if filled.any():
            raise UserError(
                f"{path}: a column without a name holds {table[column][filled].iloc[0]!r} in line "
                f"{int(filled.argmax()) + 2}, so its rows are shifted; download it again"
            )
    check_filled(table, path)
    return table


def _images(path: Location) -> tuple[pd.DataFrame, tuple[str, ...]]:
    table = _table(path)
    subject, image = ids(table, PATIENT, path), ids(table, IMAGE, path)
    study = subject + "_" + ids(table, FOLLOW_UP, path)
    image_index(image, path)
    people, notes = people_of(table)
    images = image_table(image, study, subject, table[VIEW].str.strip(), frontal=("PA", "AP"))
    return images.join(people), tuple(f"{path.name}: {note}" for note in notes)


def _labels(name: str, path: Location, folder: Location) -> LabelTable:
    table = _table(path)
    index = image_index(ids(table, IMAGE, path), path)
    named = table[LABELS].map(lambda text: {part.strip() for part in text.split("|")})
    unknown = sorted(set().union(*named) - set(FINDINGS))
    if unknown:
        raise UserError(
            f"{path}: column {LABELS!r} has unknown findings: {', '.join(map(repr, unknown))}; known are "
            f"{', '.join(FINDINGS)}"
        )
    values = pd.DataFrame({finding: [finding in row for row in named] for finding in FINDINGS}, index=index)
    split, lists, notes = _split(index, path, folder)
    values = values.astype("Int8")
    values.insert(0, "split", split)
    return LabelTable(name, FINDINGS, values, (path, *lists), notes=notes)


def _split(index: pd.Index, path: Location, folder: Location) -> tuple[pd.Series, list[Location], tuple[str, ...]]:
    """train and test by the published lists; without any list every image is in train, and that is said."""
    lists = {split: folder / file for split, file in LISTS.items() if storage_of(folder / file).exists()}
    names = {split: _names(list_path, index, path) for split, list_path in lists.items()}
    if not lists:
        return pd.Series("train", index=index), [], (f"no {' or '.join(LISTS.values())}: every image is in train",)
    both = names.get("train", pd.Index([])).intersection(names.get("test", pd.Index([])))
    if len(both):
        raise UserError(
            f"{lists['test']}: image {both[0]!r} is also in {lists['train'].name}, {counted(len(both), 'image')} in "
            "all; an image has one split; download the lists again"
        )
    split = pd.Series(pd.NA, index=index, dtype="object")
    for word, images in names.items():
        split[images] = word
    none = int(split.isna().sum())
    notes = (f"{are(none, 'image')} in no list, and so in no split",) if none else ()
    return split, list(lists.values()), notes


def _names(path: Location, index: pd.Index, table: Location) -> pd.Index:
    try:
        lines = [line.strip() for line in storage_of(path).read_bytes().decode("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); download it again") from error
    names = pd.Index([line for line in lines if line])
    check_index(names, path, "image")
    unknown = names[~names.isin(index)]
    if len(unknown):
        raise UserError(
            f"{path}: image {unknown[0]!r} is not in {table.name}, {counted(len(unknown), 'image')} in all; "
            "give the lists of this table"
        )
    return names


READER = Reader(
    name="chestx-ray14",
    order=20,
    folders=f"ChestX-ray14 {EXPECTED}",
    label_files=EXPECTED,
    recognises=recognises,
    read=read,
    label_tables=label_tables,
    title="NIH ChestX-ray14",
    needs=f"{EXPECTED}, with images_001/images/*.png ... or images/*.png; for its split {' and '.join(LISTS.values())}",
)
