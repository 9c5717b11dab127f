"""PadChest's images with the labels of CXR-LT 2026 and its own, and its own table for what the challenge leaves out.

Patients, studies, views, MONOCHROME1, sex, age, manufacturer and year are taken from
PADCHEST_chest_x_ray_images_labels_160K_*.csv where it lies beside the challenge's tables. Those hold patients as floats
of three digits, which several patients share: without PadChest's table they are refused. Images are PNG files of 16
bits, flat, in images/, or in PadChest's numbered folders.
"""

import re
from collections.abc import Sequence

import pandas as pd

from shards.errors import UserError
from shards.releases import cxrlt2026
from shards.releases.cxrlt2026 import IMAGE, PATIENT, PatientLabels, csv_files
from shards.releases.ids import has_lost_digits, ids
from shards.releases.locate import image_paths, the_same
from shards.releases.padchest_labels import OWN, labels_of_training, own_labels, with_suffix
from shards.releases.people import PEOPLE, ages, sexes
from shards.releases.release import (
    LabelTable,
    Reader,
    Release,
    files_of,
    first_of_each_name,
    image_table,
)
from shards.releases.values import check_filled, image_index
from shards.storage.csv import read_table
from shards.storage.location import Location
from shards.words import are, counted

ORIGINAL = "PADCHEST_chest_x_ray_images_labels_160K_*.csv"
EXPECTED = f"{cxrlt2026.EXPECTED} or {ORIGINAL}"

FRONTAL = ("PA", "AP", "AP_horizontal")
LATERAL = ("L",)
STUDY, PROJECTION, PHOTOMETRIC = "StudyID", "Projection", "PhotometricInterpretation_DICOM"
SEX, BIRTH, DATE, MANUFACTURER = "PatientSex_DICOM", "PatientBirth", "StudyDate_DICOM", "Manufacturer_DICOM"

_ORIGINAL = re.compile(r"PADCHEST_chest_x_ray_images_labels_160K_.*\.csv(\.gz)?", re.IGNORECASE)
_NIH = re.compile(r"([0-9]{8})_([0-9]{3})\.png")  # the challenge is said to have images of ChestX-ray14 too


def recognises(root: Location) -> bool:
    return _original_in(root) is not None or cxrlt2026.is_in(root)


def read(root: Location, label_folders: Sequence[Location]) -> Release:
    given = READER.labels_at(label_folders, None)
    files = [] if any(isinstance(table, PatientLabels) for table in given) else files_of(label_folders)
    labels = first_of_each_name([*given, *cxrlt2026.find(root, files)])
    places = (root, *dict.fromkeys(path.parent for table in labels for path in table.inputs))
    original = next((path for path in map(_original_in, places) if path is not None), None)
    challenge = [table for table in labels if isinstance(table, PatientLabels)]
    inputs = (original,) if original else labels[0].inputs
    if challenge:
        images, notes = _of_labels(challenge[0], original)
    else:
        images, notes = _original(inputs[0]), []
        check_filled(images, inputs[0])
        image_index(images["image_id"], inputs[0])
    if original:
        labels = first_of_each_name([*labels, *own_labels(original)])
        notes += _people_notes(images, original)
    image = images["image_id"]
    labels = tuple(labels_of_training(each, image, challenge) if each.name == OWN else each for each in labels)
    labels = tuple(each for each in labels if len(each.table))
    images["path"] = image_paths(root, with_suffix(image), inputs[0])
    folders = images["path"].str.rpartition("/")[0].value_counts()
    more = f" and {len(folders) - 1:,} more folders" if len(folders) > 1 else ""
    notes.append(f"images: {folders.iloc[0]:,} in {root / folders.index[0]}{more}")
    return Release(READER.name, root, images, labels, inputs, notes=tuple(notes))


def label_tables(folder: Location, images: pd.DataFrame | None, files: Sequence[Location] = ()) -> Sequence[LabelTable]:
    challenge, original = cxrlt2026.find(folder, files), _original_in(folder)
    own = own_labels(original) if original else []
    if images is not None:
        own = [labels_of_training(table, images["image_id"], challenge) for table in own]
    return [*challenge, *own]


def _original_in(folder: Location) -> Location | None:
    found = [path for path in csv_files(folder) if _ORIGINAL.fullmatch(path.name)]
    return the_same(found) if found else None


def _of_labels(labels: PatientLabels, path: Location | None) -> tuple[pd.DataFrame, list[str]]:
    """The images of the challenge's tables, with what PadChest's own table says of them."""
    image = pd.Series(labels.table.index, name="image_id")
    nih = with_suffix(image).str.fullmatch(_NIH)
    images = pd.concat([_nih(image[nih]), _described(image[~nih], path) if path else _bare(image[~nih], labels)])
    if "inverted" in images:
        images["inverted"] = images["inverted"].eq(True)  # blank for ChestX-ray14's
    people = images.columns.intersection([*PEOPLE])
    images[people] = images[people].fillna("")
    notes = [f"{are(nih.sum(), 'image')} named as ChestX-ray14's: subject and study from their names, view other"]
    notes = notes if nih.any() else []
    if path:
        notes.append(f"subjects, studies and views: from {path.name}")
        inverted = int(images["inverted"].sum()) if "inverted" in images else None
        notes.append(
            f"{path.name} has no column {PHOTOMETRIC!r}: MONOCHROME1 is not known, and no image is inverted"
            if inverted is None
            else f"{are(inverted, 'image')} MONOCHROME1 and inverted"
        )
    else:
        notes.append(
            f"no {ORIGINAL} beside the tables: studies are taken from the images' names (right for 98.8 % of "
            "PadChest), every view is other, and MONOCHROME1 is not known"
        )
    return images.set_index("image_id").loc[image].reset_index(), notes


def _nih(image: pd.Series) -> pd.DataFrame:
    parts = with_suffix(image).str.extract(_NIH)
    subject = "nih-" + parts[0]
    return image_table(image, subject + "_" + parts[1], subject, pd.Series("", index=image.index))


def _bare(image: pd.Series, labels: PatientLabels) -> pd.DataFrame:
    """Without PadChest's table: patients as the challenge's tables have them, if these are ids still."""
    subject = []
    for path, rows in labels.rows.items():
        rows = rows[rows.index.isin(image)]
        if PATIENT not in rows:
            raise UserError(
                f"{path}: no column {PATIENT!r}, so its patients are not known; put PadChest's own table ({ORIGINAL} "
                "or .csv.gz) beside it"
            )
        lost = [value for value in rows[PATIENT].unique() if has_lost_digits(value.strip())]
        if lost:
            affected = int(rows[PATIENT].isin(lost).sum())
            raise UserError(
                f"{path}: column {PATIENT!r} holds {lost[0]!r}, a float that several patients share ({affected:,} "
                f"images have such values, {len(lost):,} different ones), so splits would mix patients; put "
                f"PadChest's own table ({ORIGINAL} or .csv.gz) beside it, which has the ids as text"
            )
        subject.append(ids(rows, PATIENT, path))
    subject = pd.concat(subject).reindex(image).set_axis(image.index)
    study = image.str.replace(r"\.png$", "", regex=True, case=False).str.split("_", n=1).str[0]
    return image_table(image, study, subject, pd.Series("", index=image.index))


def _described(image: pd.Series, path: Location) -> pd.DataFrame:
    original = _original(path)
    original.index = with_suffix(original["image_id"])
    file = with_suffix(image)
    absent = ~file.isin(original.index)
    if absent.any():
        raise UserError(
            f"{path}: {absent.sum():,} of the {len(image):,} images of the labels are not in it, the first is "
            f"{image[absent].iloc[0]!r}; give the table of all 160,000 images"
        )
    original = original[original.index.isin(file)]
    image_index(original["image_id"], path)
    return original.loc[file].assign(image_id=image.to_numpy())


def _original(path: Location) -> pd.DataFrame:
    table = read_table(path, (IMAGE, STUDY, PATIENT, PROJECTION), unnamed=True)
    image, study, subject = (ids(table, column, path) for column in (IMAGE, STUDY, PATIENT))
    images = image_table(image, study, subject, table[PROJECTION].str.strip(), FRONTAL, LATERAL)
    if PHOTOMETRIC in table:
        images["inverted"] = table[PHOTOMETRIC].str.strip().str.upper() == "MONOCHROME1"
    if SEX in table:
        images["sex"] = sexes(table[SEX])[0]
    if BIRTH in table and DATE in table:  # of the birth the year alone is there
        born, seen = (pd.to_numeric(table[column].str.strip().str[:4], errors="coerce") for column in (BIRTH, DATE))
        images["age"] = ages((seen - born).map(lambda years: "" if pd.isna(years) else f"{years:.0f}"))[0]
    for what, column in (("manufacturer", MANUFACTURER), ("year", DATE)):
        if column in table:
            images[what] = PEOPLE[what](table[column].str.strip())[0]
    return images


def _people_notes(images: pd.DataFrame, path: Location) -> list[str]:
    blank = {what: int((images[what] == "").sum()) for what in ("sex", "age") if what in images}
    said = [f"the {what} of {counted(count, 'image')}" for what, count in blank.items() if count]
    return [f"{path.name}: not known: {' and '.join(said)}"] if said else []


READER = Reader(
    name="padchest",
    order=30,
    folders=f"CXR-LT 2026 {EXPECTED}",
    label_files=EXPECTED,
    recognises=recognises,
    read=read,
    label_tables=label_tables,
    with_files=label_tables,
    title="PadChest, and CXR-LT 2026 on it",
    needs=f"{ORIGINAL}, the tables of CXR-LT 2026 or both, with 0/*.png 1/*.png ... or images/*.png",
)
