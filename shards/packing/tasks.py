"""The shards to be made, as tasks that know all that a worker needs of the release's tables."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from shards.dataset.key import sample_key
from shards.dataset.labels import Labels
from shards.packing.job import PackJob, confined_to
from shards.packing.make_shard import PlannedImage, ShardTask
from shards.packing.plan import Plan
from shards.releases.release import LabelTable


def shard_tasks(
    job: PackJob, planned: Plan, spans: dict[int, tuple[int, int]], tmp: Path
) -> Iterator[tuple[ShardTask, list[PlannedImage]]]:
    """Each is made when it is asked for. spans: per shard its first row of the plan and the one after its last."""
    release, inside, parent = job.release, confined_to(job.release, job.options), os.getpid()
    names = planned.images["image_id"].iloc[planned.order]
    # int64 [tables, rows]: the row in each label table of the image of each row
    places = np.array([table.places(names) for table in release.labels], dtype=np.int64).reshape(-1, len(names))

    def images(start: int, stop: int) -> list[PlannedImage]:
        return planned_images(planned.rows(start, stop), findings_of(release.labels, places[:, start:stop]))

    return (
        (ShardTask(release.root, inside, job.out, tmp, job.options, shard, parent, job.limits.stall), images(*span))
        for shard, span in spans.items()
    )


def planned_images(rows: pd.DataFrame, findings: list[dict[str, dict]]) -> list[PlannedImage]:
    """Of rows of a plan, and each image's findings as of `findings_of`."""
    lists = {str(name): rows[name].tolist() for name in rows}
    # columns only if hashes are to be checked, and if the release tells MONOCHROME1
    lists.setdefault("sha256", [None] * len(rows))
    lists.setdefault("inverted", [False] * len(rows))
    names = zip(lists["subject_id"], lists["study_id"], lists["image_id"], strict=True)
    lists |= {"key": [sample_key(*each) for each in names], "findings": findings}
    columns = (lists[name] for name in PlannedImage.__annotations__)
    return [PlannedImage(*values) for values in zip(*columns, strict=True)]


def findings_of(labels: Sequence[LabelTable], places: np.ndarray) -> list[dict[str, dict]]:
    """Per image its findings in every label table, as they go into KEY.json: what is not listed is negative.

    places: int64 [tables, images], the images' rows in each table (`LabelTable.places`).
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
