"""What the label tables of a release say of its images, as every sample's KEY.json holds it."""

import numpy as np
import pandas as pd

from shards.packed import Labels
from shards.release import LabelTable


def findings_of(labels: tuple[LabelTable, ...], images: pd.Series) -> list[dict[str, dict]]:
    """Per image its findings in every label table, as they go into KEY.json: what is not listed is negative."""
    entries: list[dict[str, dict]] = [{} for _ in images]
    for table in labels:
        values = table.table.reindex(images)
        known = values[list(table.findings)].fillna(Labels.BLANK).to_numpy(dtype=np.int8)
        names = np.array(table.findings, dtype=object)
        for entry, split, row in zip(entries, values["split"], known, strict=True):
            entry[table.name] = found = {"split": split if isinstance(split, str) else None}
            for word, value in (("positive", 1), ("uncertain", -1), ("blank", Labels.BLANK)):
                listed = names[row == value].tolist()
                if listed or word == "positive":
                    found[word] = listed
    return entries
