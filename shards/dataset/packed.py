"""The reading side of a packed dataset: its description, catalog, labels and stored bytes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from shards.dataset.cache import Cache
from shards.dataset.catalog import CATALOG, Catalog
from shards.dataset.dataset import Dataset, Part
from shards.dataset.description import (
    ASIDE,
    DATASET,
    FORMAT,
    labels_name,
    parse_description,
    read_description,
)
from shards.dataset.key import sample_key
from shards.dataset.labels import Labels
from shards.dataset.mapped import StoredSize
from shards.dataset.people import attached, with_attached
from shards.dataset.remote_copy import Mirror
from shards.dataset.stored_labels import read_labels
from shards.dataset.tables import PIECE, Table
from shards.errors import UserError
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.remote import reaching
from shards.words import choices

T = TypeVar("T")


def _checked(path: Location, info: dict, sealed: bool) -> dict:
    """A description whose format is known and whose seal is whole."""
    if info.get("format") != FORMAT:
        raise UserError(f"{path}: format {info.get('format')!r}, this cxrdali reads {FORMAT}; pack again")
    if not sealed:
        raise UserError(f"{path}: its checksum does not match, the file was changed; restore it or pack again")
    return info


@dataclass(frozen=True)
class PackedDataset(Dataset):
    """A published packed dataset. Opening reads dataset.json and checks that every shard has its size.

    root: the folder, or the address of one in a bucket, whose files are then read from the copies of `mirror`.
    """

    root: Location
    info: dict
    mirror: Mirror | None = None
    attached = cached_property(attached)

    @classmethod
    def open(cls, root: Location, cache: Cache | None = None) -> "PackedDataset":
        """cache: where a dataset in a bucket (`shards.storage.remote.place`) is copied to; the default one without.

        Raises UserError if there is none, or if a count or a size shows that it is not whole.
        """
        if not isinstance(root, Path):
            return cls._open_remote(root, cache or Cache())
        if not (root / DATASET).exists():
            unfinished = (root / ".packing").exists()
            fix = "run the same `cxrdali shard` again to finish it" if unfinished else "run `cxrdali shard` first"
            raise UserError(f"{root}: {'an unfinished' if unfinished else 'no'} packed dataset; {fix}")
        dataset = cls(root, _checked(root / DATASET, *read_description(root)))
        dataset._check_sizes()
        return dataset

    @classmethod
    def _open_remote(cls, root: Location, cache: Cache) -> "PackedDataset":
        path = root / DATASET
        try:
            with reaching(path):
                data = storage_of(path).read_bytes()
        except UserError as error:
            # not tacitly: another one may have been published there since
            copies = "".join(f"; what was copied before is in {folder}" for folder in cache.datasets(str(root))[-1:])
            raise UserError(f"{error}{copies}") from error
        info = _checked(path, *parse_description(path, data))
        if info.get("staged"):
            raise UserError(
                f"{path}: copied while it was changed; run `cxrdali shard` on the original, and copy it again"
            )
        return cls(root, info, Mirror(root, info, data, cache))

    @property
    def folder(self) -> Path:
        """Where its files are on this disk."""
        if self.mirror is not None:
            return self.mirror.folder
        assert isinstance(self.root, Path)
        return self.root

    def outlook(self, pixels: int) -> str | None:
        """Of a dataset in a bucket: what is here of a stored size and what is to be copied, in words."""
        if self.mirror is None:
            return None
        return self.mirror.outlook(pixels, self.info["sizes"][str(pixels)]["shards"])

    def file(self, name: str, sha256: str) -> Path:
        """A table or list of the dataset on this disk; one in a bucket is copied first."""
        return self.place(name) if self.mirror is None else self.mirror.table(name, sha256)

    def place(self, name: str) -> Path:
        """Where a file of the dataset is on this disk; of a change that is being published, perhaps still aside."""
        aside = self.folder / ASIDE / name
        return aside if name in self.info.get("staged", ()) and aside.exists() else self.folder / name

    def has_folder(self, name: str) -> bool:
        """Whether a stored size is on this disk."""
        staged = any(each.startswith(f"{name}/") for each in self.info.get("staged", ()))
        return staged or (self.folder / name).exists()

    def _check_sizes(self) -> None:
        """Sizes whose folder is absent are fine (a node needs only those it trains on); half a folder is not."""
        for name, size in self.info["sizes"].items():
            if not self.has_folder(name):
                continue
            for shard in size["shards"]:
                path = self.place(shard["name"])
                found = path.stat().st_size if path.exists() else None
                if found != shard["bytes"]:
                    what = "is missing" if found is None else f"has {found} bytes"
                    raise UserError(
                        f"{path}: {what}, dataset.json says {shard['bytes']}; "
                        "copy it again, or have it made again: the same `cxrdali shard`"
                    )

    @property
    def id(self) -> str:
        return self.info["id"]

    @property
    def synthetic(self) -> bool:
        """Whether its images were generated: of a release that `cxrdali synth` wrote."""
        return self.info["options"].get("synthetic", False)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("", self, 0, self.info["counts"]["planned"]),)

    @property
    def sizes(self) -> list[int]:
        """Stored sizes present on this disk, or in the bucket, in pixels, ascending."""
        return sorted(size["pixels"] for name, size in self.info["sizes"].items() if name in self._present)

    @cached_property
    def _present(self) -> set[str]:
        sizes = self.info["sizes"].items()
        if self.mirror is not None:
            return {name for name, size in sizes if self.mirror.offers(size["shards"])}
        return {name for name, _ in sizes if self.has_folder(name)}

    @cached_property
    def catalog(self) -> pd.DataFrame:
        """One row per planned image. Of 4 million it takes 1.3 GB: `of_rows` and `arrow` have what a part needs."""
        return self._read(Catalog.whole)

    def has(self, name: str) -> bool:
        """Whether the catalog, or what was attached to it, has a column, as sex, age or manufacturer."""
        return name in self.attached or self._read(lambda catalog: name in catalog.names())

    def arrow(self, *names: str) -> pa.Table:
        """Some columns as arrow has them, which is not kept: no object for each text. Attached people count first."""
        if len(own := [name for name in names if name not in self.attached]) < len(names):
            return with_attached(self.arrow(*own), self.attached, names)
        if "catalog" in self.__dict__:
            return pa.Table.from_pandas(self.catalog[[*names]], preserve_index=False)
        return self._read(lambda catalog: catalog.arrow(names))

    def pieces(self, *names: str) -> Iterator[pa.RecordBatch]:
        """The same, some rows at a time."""
        kept = "catalog" in self.__dict__ or any(name in self.attached for name in names)
        yield from self.arrow(*names).to_batches() if kept else self._read(Catalog.checked).pieces(names)

    def numbers(self, *names: str) -> list[np.ndarray]:
        """Columns of the catalog that say where images are: int32 [rows] each (int64 where they need it), -1 of a
        reject. They are not kept."""
        return self._read(lambda catalog: catalog.numbers(names))

    def _read(self, read: Callable[[Catalog], T]) -> T:
        """Also of a dataset that has got or lost a size since it was opened: a training goes on."""
        try:
            return read(self.catalog_file)
        except UserError:
            if self.mirror is not None or (now := PackedDataset.open(self.root)).info == self.info:
                raise
            if now.id != self.id:
                raise UserError(f"{self.root}: other images were packed while it was in use; begin again") from None
            return read(now.catalog_file)

    @property
    def catalog_file(self) -> Catalog:
        """catalog.parquet, whose hash is checked when it is first read."""
        path = self.file(CATALOG, self.info["catalog_sha256"])
        if path not in self._catalogs:
            counts, sizes = self.info["counts"], tuple(self.info["sizes"])
            self._catalogs[path] = Catalog(path, self.info["catalog_sha256"], counts["planned"], sizes)
        return self._catalogs[path]

    @cached_property
    def _catalogs(self) -> dict[Path, Catalog]:
        return {}

    @cached_property
    def packed(self) -> np.ndarray:
        """bool [rows]: whether the row's image was packed (False for a reject)."""
        return self.numbers("shard")[0] >= 0

    @property
    def label_names(self) -> list[str]:
        """Attached label releases, the default first. A file that dataset.json does not list is not attached."""
        names = sorted(self.info["labels"])
        default = self.info["default_labels"]
        return sorted(names, key=lambda name: name != default)

    def labels(self, name: str | None = None) -> Labels:
        """A label release by name; the default one without."""
        names = self.label_names
        if not names:
            raise UserError(
                f"{self.root}: no label release is attached; attach one: cxrdali label {self.root} --labels DIR"
            )
        name = name or names[0]
        if name not in names:
            known = choices(name, names, "attached are")
            fix = "are of several packs; give --data of each" if "=" in name else "cxrdali label attaches others"
            raise UserError(f"{self.root}: no labels {name!r}; {known} ({fix})")
        return read_labels(self.label_file(name), name)

    def label_file(self, name: str) -> Table:
        """The table of a label release."""
        sha256 = self.info["labels"][name]
        return Table(self.file(labels_name(name), sha256), sha256, self.info["counts"]["planned"])

    def stored(self, pixels: int) -> StoredSize:
        """Where one stored size's renditions are. Raises UserError if the size is not stored here."""
        if pixels not in self.sizes:
            stored = ", ".join(map(str, self.sizes)) or "none"
            raise UserError(f"{self.root}: size {pixels} is not stored here; stored are {stored}")
        if pixels not in self._stored:
            self._stored[pixels] = _find_stored(self, pixels)
        return self._stored[pixels]

    @cached_property
    def _stored(self) -> dict[int, StoredSize]:
        return {}

    def key(self, row: int) -> str:
        """The sample key of a catalog row."""
        at = self.catalog.iloc[row]
        return sample_key(at["subject_id"], at["study_id"], at["image_id"])


def _find_stored(dataset: PackedDataset, pixels: int) -> StoredSize:
    entry = dataset.info["sizes"][str(pixels)]
    shard, offset, length = dataset.numbers("shard", f"offset_{pixels}", f"length_{pixels}")
    described = {int(Path(each["name"]).stem): each for each in entry["shards"]}
    held = np.zeros(max(described, default=0) + 1, dtype=np.int64)
    held[list(described)] = [each["bytes"] for each in described.values()]
    if held.max() >= 2**31:  # the end of an image must fit, too
        offset, length = offset.astype(np.int64), length.astype(np.int64)
    for at in range(0, len(shard), PIECE):
        own, begin, count = (each[at : at + PIECE] for each in (shard, offset, length))
        outside = (count == 0) | (begin > held[own.clip(0, len(held) - 1)] - count) | (own >= len(held))
        outside &= own >= 0
        if outside.any():  # a slice would end with the file, and no error
            row = at + int(outside.argmax())
            raise UserError(f"{dataset.root}: row {row} lies outside shard {shard[row]} of size {pixels}; pack again")
    return StoredSize(
        pixels=pixels,
        raw=entry["encoding"] == "raw",
        paths={number: dataset.place(each["name"]) for number, each in described.items()},
        described=described,
        shard=shard,
        offset=offset,
        length=length,
        mirror=dataset.mirror,
    )
