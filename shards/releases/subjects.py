"""People of packed images from tables that a release does not have: MIMIC-IV's, and any of one's own.

MIMIC-IV knows of a patient the age in a year, the anchor, which is shifted by the same unknown number of years as all
dates of that patient, and which three years it really is one of. So the age at a study is the anchor's age and the
years between the two, and the study's year is known to within one: the middle of the three, and the years between.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from shards.errors import UserError
from shards.releases.ids import alike, ids
from shards.releases.people import COLUMNS, PEOPLE, people_columns, people_of
from shards.releases.release import Release
from shards.releases.values import rows_of
from shards.storage.csv import read_table
from shards.storage.location import Location
from shards.storage.table_file import SAVE
from shards.words import are, counted

KEYS = {
    **dict.fromkeys(("imageid", "dicomid", "imageindex"), "image_id"),
    **dict.fromkeys(("subjectid", "patientid"), "subject_id"),
}
PATIENTS = ("subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group")  # MIMIC-IV's
OVER = 91  # what MIMIC-IV writes as the anchor's age of everybody over 89


@dataclass(frozen=True)
class SubjectTable:
    """table: texts by image, in the images' order, columns of PEOPLE, "" where it is not known; inputs: the files that
    it was read from; notes: lines for the user."""

    table: pd.DataFrame
    inputs: tuple[Location, ...]
    notes: tuple[str, ...]


def read_subjects(
    path: Location, images: pd.DataFrame, admissions: Location | None = None, metadata: Location | None = None
) -> SubjectTable:
    """The people of images by a table of images or of patients.

    Args:
        path: MIMIC-IV's patients, or a table with an id of images or patients and columns of `people.COLUMNS`.
        images: With the columns image_id and subject_id.
        admissions: MIMIC-IV's table of them, for races.
        metadata: MIMIC-CXR-JPG's table of images, for the dates of studies.

    Raises:
        UserError: for a table without such columns, with two that say the same, or that is of none of these images.
    """
    table = read_table(path, again=SAVE)
    if {*PATIENTS} <= {*table.columns}:
        return _mimic(table, path, images, admissions, metadata)
    for other, option in ((admissions, "--admissions"), (metadata, "--metadata")):
        if other is not None:
            raise UserError(
                f"{path}: {option} {other} goes with MIMIC-IV's patients.csv.gz, which has the columns "
                f"{', '.join(PATIENTS)}; leave it out"
            )
    keys = people_columns(table.columns, KEYS)
    key = next((name for name in ("image_id", "subject_id") if name in keys), None)
    if key is None:
        raise UserError(
            f"{path}: neither image_id nor subject_id is among its columns {', '.join(table.columns[:12])}; call the "
            "column of ids so"
        )
    found = people_columns(table.columns, COLUMNS)
    for name, columns in {**found, key: keys[key]}.items():
        if len(columns) > 1:
            raise UserError(f"{path}: columns {' and '.join(map(repr, columns))} both say {name}; keep one of them")
    if not found:
        raise UserError(f"{path}: none of its columns is one of {', '.join(PEOPLE)}; call the columns so")
    unit = "image" if key == "image_id" else "patient"
    people, notes = people_of(table, "row")
    people, differ = _one_each(people, ids(table, keys[key][0], path), unit)
    if unit == "patient":
        notes += tuple(
            f"the {name} is of the patient and not of a study, as the table names no images"
            for name in ("age", "year")
            if name in people
        )
    joined, missing = _joined(people, images, key, unit, path)
    return SubjectTable(joined, (path,), (*notes, *differ, *missing))


def of_release(release: Release, images: pd.DataFrame) -> SubjectTable:
    """What a release's own tables say of packed images: of one that was packed before this was read."""
    columns = [name for name in PEOPLE if name in release.images]
    file = release.inputs[0] if release.inputs else release.root
    if not columns:
        raise UserError(f"{file}: the tables of a {release.name} release say nothing of {', '.join(PEOPLE)}")
    people = release.images.set_index("image_id")[columns]
    joined, missing = _joined(people, images, "image_id", "image", file)
    return SubjectTable(joined, release.inputs, (*release.notes, *missing))


def _mimic(
    table: pd.DataFrame, path: Location, images: pd.DataFrame, admissions: Location | None, metadata: Location | None
) -> SubjectTable:
    subject = ids(table, "subject_id", path, prefix="p")
    people, notes = people_of(table[["gender"]], "patient")
    people, differ = _one_each(people.join(table[[*PATIENTS[2:]]]), subject, "patient")
    found, missing = _joined(people, images, "subject_id", "patient", path)
    notes, inputs = (*notes, *differ, *missing), [path]
    if metadata is None:
        notes += ("age and year are not known: they need the dates of studies; give --metadata "
                  "mimic-cxr-2.0.0-metadata.csv.gz",)  # fmt: skip
    else:
        more, said = _at_study(found, images, metadata)
        found, inputs = found.join(more), [*inputs, metadata]
        notes += said
    if admissions is None:
        notes += ("race is not known: give --admissions admissions.csv.gz, of MIMIC-IV too",)
    else:
        race, said = _races(images, admissions)
        found, inputs = found.join(race), [*inputs, admissions]
        notes += said
    return SubjectTable(found[[name for name in PEOPLE if name in found]], tuple(inputs), notes)


def _at_study(people: pd.DataFrame, images: pd.DataFrame, path: Location) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Age and year at each image's study."""
    table = read_table(path, ("dicom_id", "StudyDate"))
    dates, differ = _one_each(table[["StudyDate"]], ids(table, "dicom_id", path), "image")
    dates, missing = _joined(dates, images, "image_id", "image", path)
    study = pd.to_numeric(dates["StudyDate"].str.extract(r"^\s*([0-9]{4})[0-9]{4}", expand=False))
    anchor, age = (pd.to_numeric(people[name], errors="coerce") for name in ("anchor_year", "anchor_age"))
    since = study - anchor  # both are shifted alike
    first, last = (pd.to_numeric(people["anchor_year_group"].str.extract(pattern, expand=False))
                   for pattern in (r"^\s*([0-9]{4})", r"([0-9]{4})\s*$"))  # fmt: skip
    known = {"age": age + since, "year": (first + last) / 2 + since}
    texts = pd.DataFrame({name: _whole(numbers) for name, numbers in known.items()})
    made, notes = people_of(texts)
    over = int((age >= OVER).sum())
    said = ["year: right to within one, as MIMIC-IV shifts each patient's dates and tells which three years it may be"]
    if over:
        said += [f"age of {counted(over, 'image')}: of patients over 89, whom MIMIC-IV makes {OVER} at the anchor"]
    return made, (*notes, *differ, *missing, *said)


def _whole(numbers: pd.Series) -> pd.Series:
    return numbers.map(lambda value: f"{value:.0f}", na_action="ignore").fillna("").astype("str")


def _races(images: pd.DataFrame, path: Location) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Of each image's patient by all admissions; MIMIC-IV 1.0 calls the column ethnicity."""
    table = read_table(path, ("subject_id",))
    column = next((name for name in ("race", "ethnicity") if name in table), None)
    if column is None:
        raise UserError(f"{path}: neither race nor ethnicity is among its columns; give MIMIC-IV's admissions.csv.gz")
    people, notes = people_of(table[[column]].set_axis(["race"], axis=1), "admission")
    people, differ = _one_each(people, ids(table, "subject_id", path, prefix="p"), "patient")
    joined, missing = _joined(people, images, "subject_id", "patient", path)
    return joined, (*notes, *differ, *missing)


def _one_each(people: pd.DataFrame, key: pd.Series, unit: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """One row for each id; where its rows say different things, that is not known. Blanks say nothing."""
    made, notes = {}, []
    order = key.drop_duplicates()
    for name, column in people.items():
        given = column != ""
        said = pd.DataFrame({"key": key[given], "value": column[given]}).drop_duplicates()
        twice = said["key"].duplicated(keep=False)
        if twice.any():
            differ = said["key"][twice].nunique()
            first = " and ".join(map(repr, said["value"][said["key"] == said["key"][twice].iloc[0]][:2]))
            notes.append(f"{name} of {are(differ, unit)} not known: rows say different things, as {first}")
        known = said[~twice].set_index("key")["value"]
        made[name] = known.reindex(order).fillna("").to_numpy()
    return pd.DataFrame(made, index=pd.Index(order)), tuple(notes)


def _joined(
    people: pd.DataFrame, images: pd.DataFrame, key: str, unit: str, path: Location
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of each image, blank where there is none, and what is missing on both sides."""
    places = rows_of(images[key], people.index)
    here = places >= 0
    if not here.any():
        found = alike(people.index, images[key])
        words = "give the table of these images"
        if found:
            words = f"{found[0]!r} is not, but {found[1]!r} is: write ids the same way"
        raise UserError(f"{path}: none of its {counted(len(people), unit)} is in the packed dataset; {words}")
    joined = people.iloc[places].set_index(images.index)
    joined[~here] = ""
    notes = []
    if not here.all():
        lacking = images[key][~here].nunique()
        of = f" of {counted(int((~here).sum()), 'image')}" if unit == "patient" else ""
        notes.append(f"{path.name}: {are(lacking, unit)} not in it{of}: nothing is known of them")
    elsewhere = len(people) - len(set(places[here]))
    if elsewhere:
        notes.append(f"{path.name}: {counted(elsewhere, unit)} more, not in this dataset")
    return joined, tuple(notes)


def merged(own: Mapping[str, pd.Series], given: SubjectTable) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A table for images of which some is known: what is known stays, and how often the table says another thing is
    told. own: by column, texts of the images, "" where it is not known."""
    table, notes = given.table.copy(), []
    for name, before in own.items():
        new = table[name]
        differ = int(((before != "") & (new != "") & (before != new)).sum())
        if differ:
            notes.append(f"{name} of {counted(differ, 'image')}: packed as another than the table says; that stays")
        table[name] = before.where(before != "", new)
    known = [name for name in table if (table[name] != "").any()]
    return table[known], tuple(notes)
