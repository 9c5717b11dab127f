"""Several packs as one dataset: their rows one after the other, ids with the pack's name in front."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from shards.dataset.dataset import Dataset, Part
from shards.dataset.labels import Coded, Labels, PackLabels
from shards.dataset.packed import PackedDataset
from shards.dataset.synonyms import FindingsMap, Together, together
from shards.errors import UserError
from shards.storage.files import sha256_bytes
from shards.words import choices

IDS = ("image_id", "study_id", "subject_id")
PACK = "pack"  # the column that names each row's pack
_PLACES = re.compile(r"row|shard|(offset|length)_\d+")  # columns that each pack counts from 0


@dataclass(frozen=True)
class UnionOptions:
    """findings: which names of findings are the same; same_patients: groups of packs, by name, of which equal subject
    ids are one patient."""

    findings: FindingsMap = field(default_factory=FindingsMap)
    same_patients: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class Union(Dataset):
    """Made by `of`. Ids are "NAME:ID", a subject's with the name of the first pack that has its patients; the column
    "pack" holds each row's pack."""

    packs: tuple[Part, ...]
    options: UnionOptions

    @classmethod
    def of(cls, packs: Mapping[str, PackedDataset], options: UnionOptions | None = None) -> Dataset:
        """Packs by name as one dataset, in their order; one alone is itself.

        Raises UserError for a name that ids cannot have, or patients of packs that are not there.
        """
        if len(packs) == 1:
            return next(iter(packs.values()))
        options, parts, start = options or UnionOptions(), [], 0
        for name, dataset in packs.items():
            if not re.fullmatch(r"[\w.-]+", name):
                raise UserError(
                    f"{dataset.root}: {name!r} cannot name one pack among others; give letters, digits, . _ "
                    f"and -, as in --data NAME={dataset.root}"
                )
            stop = start + len(dataset.packed)
            parts.append(Part(name, dataset, start, stop))
            start = stop
        named = [name for group in options.same_patients for name in group]
        for name in named:
            if name not in packs:
                raise UserError(f"same-patients {name!r}: no such pack; {choices(name, packs, 'there are')}")
            if named.count(name) > 1:
                raise UserError(f"same-patients {name!r}: is named twice; give all packs of its patients in one group")
        return cls(tuple(parts), options)

    @property
    def root(self) -> str:  # type: ignore[override]  # nobody sets it
        return " + ".join(str(part.dataset.root) for part in self.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.packs

    @cached_property
    def id(self) -> str:
        return sha256_bytes(json.dumps([[part.name, part.dataset.id] for part in self.parts]).encode())

    @property
    def synthetic(self) -> bool:
        return any(part.dataset.synthetic for part in self.parts)

    @property
    def sizes(self) -> list[int]:
        return sorted(set.intersection(*(set(part.dataset.sizes) for part in self.parts)))

    @cached_property
    def catalog(self) -> pd.DataFrame:
        """Without the columns of where images are."""
        tables = []
        for part in self.parts:
            table = part.dataset.catalog
            table = table[[name for name in table if not _PLACES.fullmatch(name)]]
            own = self._part_columns(part, [*IDS, PACK]).to_pandas()
            tables.append(table.assign(**{name: own[name].to_numpy() for name in own}))
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def packed(self) -> np.ndarray:
        return np.concatenate([part.dataset.packed for part in self.parts])

    def has(self, name: str) -> bool:
        return name == PACK or any(part.dataset.has(name) for part in self.parts)

    def arrow(self, *names: str) -> pa.Table:
        """A column that a pack does not have is null there."""
        return pa.concat_tables([self._part_columns(part, names) for part in self.parts], promote_options="permissive")

    def pieces(self, *names: str) -> Iterator[pa.RecordBatch]:
        for part in self.parts:
            yield from self._part_columns(part, names).to_batches()

    def _part_columns(self, part: Part, names: tuple[str, ...] | list[str]) -> pa.Table:
        there = [name for name in names if name in IDS or (name != PACK and part.dataset.has(name))]
        table, rows = part.dataset.arrow(*there), part.stop - part.start
        found = {}
        for name in names:
            if name in IDS:
                prefix = part.name if name != "subject_id" else self._patients_of.get(part.name, part.name)
                kind = table[name].type
                found[name] = pc.binary_join_element_wise(pa.scalar(prefix, kind), table[name], pa.scalar(":", kind))
            elif name == PACK:
                found[name] = pa.repeat(part.name, rows)
            elif name in there:
                found[name] = table[name]
            else:
                found[name] = pa.nulls(rows)
        return pa.table(found)

    def patients(self, part: Part) -> list[str]:
        """The ids of a pack's patients, each once, as they are here."""
        return pc.unique(self._part_columns(part, ["subject_id"])["subject_id"]).to_pylist()

    @cached_property
    def _patients_of(self) -> dict[str, str]:
        """Of packs whose patients are another pack's: that pack."""
        return {name: group[0] for group in self.options.same_patients for name in group}

    # ---------------------------------------------------------------- labels

    @property
    def label_names(self) -> list[str]:
        """Each pack's default, as `labels` names them, and the releases that all packs have."""
        shared = [
            name for name in self.parts[0].dataset.label_names
            if all(name in part.dataset.label_names for part in self.parts[1:])
        ]  # fmt: skip
        return [*dict.fromkeys([self.labels_name(self._releases(None)), *shared])]

    def labels(self, name: str | None = None) -> Labels:
        """name: of a release that all packs have, or "A=x,B=y", each pack's own; of what is not given the default.

        Raises UserError for an unknown release or pack, or a map of findings that does not fit.
        """
        chosen = self._releases(name)
        own = {part.name: part.dataset.labels(chosen[part.name]) for part in self.parts}
        found = self.found({pack: labels.findings for pack, labels in own.items()})
        values = np.full((self.parts[-1].stop, len(found.findings)), Labels.UNKNOWN, dtype=np.int8)
        packs, splits, soft = [], [], None
        for part in self.parts:
            labels, places = own[part.name], found.places[part.name]
            values[part.start : part.stop, places] = labels.values
            assert isinstance(labels.split, Coded)  # as a packed dataset reads them
            splits.append(labels.split)
            if labels.soft is not None:
                soft = np.full(values.shape, np.nan, dtype=np.float32) if soft is None else soft
                soft[part.start : part.stop, places] = labels.soft
            about = (part.name, labels.name, labels.sha256, labels.findings, places, part.start, part.stop)
            packs.append(PackLabels(*about, labels.pseudo))
        known = [found.findings, [[each.pack, each.sha256, each.places] for each in packs]]
        sha256, split = sha256_bytes(json.dumps(known).encode()), Coded.joined(splits)
        return Labels(self.labels_name(chosen), found.findings, split, values, sha256, tuple(packs), soft=soft)

    def found(self, findings: Mapping[str, tuple[str, ...]]) -> Together:
        """Its packs' findings, by name, as one list."""
        return together(findings, self.options.findings)

    @staticmethod
    def labels_name(releases: Mapping[str, str]) -> str:
        """The releases of packs as one name, which `labels` takes."""
        names = {*releases.values()}
        return names.pop() if len(names) == 1 else ",".join(f"{pack}={name}" for pack, name in releases.items())

    def _releases(self, name: str | None) -> dict[str, str]:
        """Of each pack the label release that is meant."""
        names = {part.name: part.dataset.label_names for part in self.parts}
        asked: dict[str, str | None] = dict.fromkeys(names, name)
        entries = [entry.partition("=") for entry in (name or "").split(",")]
        if all(each[1] for each in entries) and not any(name in own for own in names.values()):
            asked = dict.fromkeys(names)
            for pack, _, release in entries:
                if pack not in asked:
                    raise UserError(f"labels {name!r}: no pack {pack!r}; {choices(pack, asked, 'there are')}")
                asked[pack] = release
        for part in self.parts:
            if not names[part.name]:
                part.dataset.labels()  # which says how to attach some
        if name and name in asked.values():
            for part in self.parts:
                if name not in names[part.name]:
                    known = "; ".join(f"{pack} has {', '.join(each)}" for pack, each in names.items())
                    own = ",".join(f"{pack}={each[0]}" for pack, each in names.items())
                    raise UserError(
                        f"{part.dataset.root}: no labels {name!r}; {known}: give each its own, --labels {own}"
                    )
        return {pack: release or names[pack][0] for pack, release in asked.items()}
