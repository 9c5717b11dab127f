"""What is known of the people on a packed dataset's images: packed with them, or attached later."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from shards.dataset.catalog import PEOPLE, Subjects
from shards.dataset.description import subjects_name

if TYPE_CHECKING:
    from shards.dataset.packed import PackedDataset


def attached(dataset: "PackedDataset") -> dict[str, Subjects]:
    """By column, the tables of people that were attached (`shards.packing.attach.attach_subjects`)."""
    found: dict[str, Subjects] = {}
    for name, sha256 in dataset.info.get("subjects", {}).items():
        table = Subjects(dataset.file(subjects_name(name), sha256), sha256, dataset.info["counts"]["planned"])
        found |= dict.fromkeys(table.columns(), table)
    return found


def with_attached(own: pa.Table, tables: Mapping[str, Subjects], names: Sequence[str]) -> pa.Table:
    """These columns, of which the catalog has those in `own`, and the others are attached."""
    columns = {name: own[name] if name in own.column_names else tables[name].arrow([name])[name] for name in names}
    return pa.table(columns)


def known_people(dataset: "PackedDataset") -> list[tuple[str, int, str]]:
    """Of what is known of people: the column, of how many images, and what was attached ("": it was packed)."""
    found = []
    for name in filter(dataset.has, PEOPLE):
        known = len(dataset.packed) - dataset.arrow(name)[name].null_count
        found.append((name, known, dataset.attached[name].path.stem if name in dataset.attached else ""))
    return found
