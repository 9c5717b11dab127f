"""What the label tables of a release say of its images, as every sample's KEY.json holds it."""

from collections.abc import Sequence

import numpy as np

from shards.dataset.labels import Labels
from shards.releases.release import LabelTable


def findings_of(labels: Sequence[LabelTable], places: np.ndarray) -> list[dict[str, dict]]:
    """Per image its findings in every label table, as they go into KEY.json: what is not listed is negative.

    places: int64 [tables, images], where the images stand in each table (`LabelTable.places`).
    """
    entries: list[dict[str, dict]] = [{} for _ in range(places.shape[1])]
    for table, place in zip(labels, places, strict=True):
        values, absent = table.table.iloc[place], place < 0
        known = values[list(table.findings)].fillna(Labels.BLANK).to_numpy(dtype=np.int8)
        known = np.where(absent[:, None], np.int8(Labels.BLANK), known)
        names = np.array(table.findings, dtype=object)
        for entry, split, row in zip(entries, values["split"].mask(absent), known, strict=True):
            entry[table.name] = found = {"split": split if isinstance(split, str) else None}
            for word, value in (("positive", 1), ("uncertain", -1), ("blank", Labels.BLANK)):
                listed = names[row == value].tolist()
                if listed or word == "positive":
                    found[word] = listed
    return entries
