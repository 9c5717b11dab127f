"""PadChest's own findings: the lists of names in its table, as text that Python has written, "['normal', ' nodule']".

A finding that an image's list names is 1, every other 0. Nothing is known of an image without a list; and of one whose
list has a mark, which says that its report is not complete, only what the list names.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from shards.errors import UserError
from shards.releases.cxrlt2026 import IMAGE, PatientLabels
from shards.releases.declared.tables import items
from shards.releases.ids import ids
from shards.releases.release import LabelTable
from shards.releases.values import image_index, rows_of
from shards.storage.csv import read_table
from shards.storage.location import Location
from shards.words import counted

OWN, LABELS = "padchest", "Labels"
MARKS = ("exclude", "suboptimal study", "unchanged")  # in any case; they are no findings


def with_suffix(image: pd.Series) -> pd.Series:
    """ImageID with the suffix of its file, which PadChest's ids have."""
    return image.where(image.str.lower().str.endswith(".png"), image + ".png")


def own_labels(path: Location) -> list[LabelTable]:
    """The label release of PadChest's own table, for all of its images; none if the column is not there."""
    table = read_table(path, (IMAGE,), unnamed=True)
    if LABELS not in table:
        return []
    index = image_index(ids(table, IMAGE, path), path)
    text_of, texts = pd.factorize(table[LABELS].str.strip())  # many images have the same list
    lists = [_names(text, path) for text in texts]
    findings = sorted({name for names in lists for name in names if name.lower() not in MARKS})
    if not findings:
        return []
    named = np.array([[finding in names for finding in findings] for names in lists])
    why = {"no list": [not names for names in lists]}
    why |= {repr(mark): [mark in map(str.lower, names) for names in lists] for mark in MARKS}
    unknown = ~named & np.any(list(why.values()), axis=0)[:, None]
    columns = zip(findings, named.T[:, text_of].astype(np.int8), unknown.T[:, text_of], strict=True)
    values = {finding: pd.arrays.IntegerArray(*column) for finding, *column in columns}
    images = np.bincount(text_of, minlength=len(texts))
    counts = [f"{reason} ({counted(images[found].sum(), 'image')})" for reason, found in why.items() if any(found)]
    but = f", but unknown with {', '.join(counts)}" if counts else ""
    note = f"{path.name}: {counted(len(findings), 'finding')}; what a list does not name is 0{but}; all are in train"
    frame = pd.DataFrame({"split": "train", **values}, index=range(len(index))).set_axis(index)
    return [LabelTable(OWN, tuple(findings), frame, (path,), notes=(note,))]


def labels_of_training(own: LabelTable, image: pd.Series, challenge: Sequence[PatientLabels]) -> LabelTable:
    """PadChest's labels of these images, by their ids as they are here. Those that the challenge holds out have none:
    its rules want no other label of them read."""
    row, notes = rows_of(with_suffix(image), with_suffix(own.table.index.to_series())), own.notes
    elsewhere = len(own.table) - int((row >= 0).sum())
    if (row < 0).all():  # of another data set; who attaches it says so
        return own
    if challenge:
        held = (row >= 0) & image.isin(challenge[0].table.index[challenge[0].table["split"] != "train"])
        row = np.where(held, -1, row)
        notes += (f"{own.inputs[0].name}: its labels of {counted(held.sum(), 'image')} held out are not read",)
    table = own.table.iloc[row[row >= 0]].set_axis(pd.Index(image[row >= 0], name="image_id"))
    return replace(own, table=table, elsewhere=elsewhere, notes=notes)


def _names(text: str, path: Location) -> set[str]:
    found = [] if text.lower() == "nan" else items(text)
    if found is None:
        raise UserError(f"{path}: column {LABELS!r} holds {text[:80]!r}, no list of names; download the table again")
    return {name.strip() for name in found} - {""}
