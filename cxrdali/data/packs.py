"""Several packs as one dataset, by what settings and options say of them."""

from collections.abc import Mapping

from cxrdali.data.options import patient_groups
from shards.dataset.dataset import Dataset
from shards.dataset.packed import PackedDataset
from shards.dataset.synonyms import FindingsMap
from shards.dataset.union import Union, UnionOptions


def as_one(
    packs: Mapping[str, PackedDataset], findings: str | None = None, same_patients: str | None = None
) -> Dataset:
    """Packs by name as one dataset, in their order; one alone is itself.

    findings, same_patients: as in `DataSettings`.
    """
    return Union.of(packs, UnionOptions(FindingsMap.read(findings), patient_groups(same_patients)))
