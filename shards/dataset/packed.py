"""The reading side of a packed dataset: its description, catalog, labels and stored bytes."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shards.dataset.cache import Cache
from shards.dataset.description import ASIDE, DATASET, FORMAT, labels_name, parse_description, read_description
from shards.dataset.key import sample_key
from shards.dataset.labels import Labels
from shards.dataset.mapped import StoredSize
from shards.dataset.remote_copy import Mirror
from shards.errors import UserError
from shards.storage.files import open_regular, sha256_bytes
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.remote import reaching
from shards.words import choices

# Of a table, per byte of its file: those that packing writes have less than one row, and six bytes.
MOST_ROWS, MOST_UNPACKED = 4, 100


def checked_bytes(path: Location, sha256: str) -> bytes:
    """A file of a packed dataset. Raises UserError if it cannot be read, or is not the one that dataset.json lists."""
    try:
        if isinstance(path, Path):
            with open_regular(path) as file:
                data = file.read()
        else:
            data = storage_of(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it or pack again") from error
    if sha256_bytes(data) != sha256:
        raise UserError(f"{path}: its hash is not the one in dataset.json; restore it or pack again")
    return data


def _parquet(path: Path, sha256: str, rows: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table, whose hash is checked first: a flipped bit in a parquet file often reads as another number.

    rows: how many it must have; columns: read only those of them that are there, once each.
    """
    data = checked_bytes(path, sha256)
    try:
        found = pq.read_metadata(io.BytesIO(data))
        if found.num_rows != rows:
            raise UserError(f"{path}: {found.num_rows} rows, dataset.json says {rows}; restore it")
        unpacked = sum(found.row_group(group).total_byte_size for group in range(found.num_row_groups))
        if rows > MOST_ROWS * len(data) or unpacked > MOST_UNPACKED * len(data):
            raise UserError(
                f"{path}: {len(data):,} bytes that would become {rows:,} rows and {unpacked:,} bytes, as no table that "
                "packing writes; restore it or pack again"
            )
        if columns is not None:
            there = Counter(found.schema.to_arrow_schema().names)
            columns = [name for name in columns if there[name] == 1]
        # not io.BytesIO: an arrow thread that lets go of it while Python ends aborts the process
        table = pd.read_parquet(pa.BufferReader(data), columns=columns)
        for name in table.columns[table.dtypes == "str"]:
            pa.array(table[name]).validate(full=True)  # a text need not be UTF-8
        return table
    except UserError:
        raise
    except Exception as error:  # arrow raises many kinds on damage
        raise UserError(f"{path}: not a readable table ({' '.join(str(error).split())}); attach it again") from error


def _check_shown(table: pd.DataFrame, path: Path) -> None:
    """Of a catalog, the columns that are only shown and counted: numbers or texts where there is anything."""
    numbers, texts = pd.api.types.is_numeric_dtype, pd.api.types.is_string_dtype
    kinds = {"height": numbers, "width": numbers, "view_position": texts, "converted": texts, "pixels": texts}
    for column, right in kinds.items():
        if column in ("converted", "pixels") and column not in table:
            continue  # of an earlier version
        fits = list(table.columns).count(column) == 1
        if fits and not (held := table[column].dropna()).empty:
            fits = right(held) and (column != "pixels" or held.str.len().max() <= 64)
        if not fits:
            raise UserError(f"{path}: column {column!r} holds what packing does not write; pack again")


def _checked(path: Location, info: dict, sealed: bool) -> dict:
    """A description whose format is known and whose seal is whole."""
    if info.get("format") != FORMAT:
        raise UserError(f"{path}: format {info.get('format')!r}, this cxrdali reads {FORMAT}; pack again")
    if not sealed:
        raise UserError(f"{path}: its checksum does not match, the file was changed; restore it or pack again")
    return info


@dataclass(frozen=True)
class PackedDataset:
    """A published packed dataset. Opening reads dataset.json and checks that every shard has its size.

    root: the folder, or the address of one in a bucket, whose files are then read from the copies of `mirror`.
    """

    root: Location
    info: dict
    mirror: Mirror | None = None

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
        """One row per planned image. Of 4 million rows it takes 1.3 GB: `columns` has what a part needs of it."""
        return self._read_catalog(None)

    def columns(self, *names: str) -> pd.DataFrame:
        """Some columns of the catalog, which is not kept."""
        return self.catalog[[*names]] if "catalog" in self.__dict__ else self._read_catalog(names)

    def _read_catalog(self, names: Sequence[str] | None) -> pd.DataFrame:
        """Also of a dataset that has got or lost a size since it was opened: a training goes on."""
        try:
            return self._read_listed(names)
        except UserError:
            if self.mirror is not None or (now := PackedDataset.open(self.root)).info == self.info:
                raise
            if now.id != self.id:
                raise UserError(f"{self.root}: other images were packed while it was in use; begin again") from None
            return now.catalog if names is None else now.columns(*names)

    def _read_listed(self, names: Sequence[str] | None) -> pd.DataFrame:
        texts = ["image_id", "study_id", "subject_id", "view"]
        places = ["shard", *(f"{column}_{size}" for size in self.info["sizes"] for column in ("offset", "length"))]
        sha256 = self.info["catalog_sha256"]
        path = self.file("catalog.parquet", sha256)
        if names is not None:
            texts, places = ([name for name in kind if name in names] for kind in (texts, places))
        table = _parquet(path, sha256, self.info["counts"]["planned"], names)
        self._check_catalog(table, path, texts, places)
        if names is None:
            _check_shown(table, path)
        return table

    def _check_catalog(self, table: pd.DataFrame, path: Path, texts: list[str], places: list[str]) -> None:
        """Its hash says that it is the one that was packed; this, that it is one that cxrdali packed."""
        for column in texts + places:
            if list(table.columns).count(column) != 1:
                raise UserError(f"{path}: column {column!r} is missing or duplicated; pack again")
            right = pd.api.types.is_string_dtype if column in texts else pd.api.types.is_integer_dtype
            present = table[column].notna()
            wanted = True if column in texts else table["shard"].notna()
            negative = column in places and right(table[column]) and (table[column].dropna() < 0).any()
            if not right(table[column]) or not (present == wanted).all() or negative:
                raise UserError(f"{path}: column {column!r} holds what packing does not write; pack again")

    @cached_property
    def packed(self) -> np.ndarray:
        """bool [rows]: whether the row's image was packed (False for a reject)."""
        return self.columns("shard")["shard"].notna().to_numpy()

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
            raise UserError(f"{self.root}: no labels {name!r}; {known} (cxrdali label attaches others)")
        sha256 = self.info["labels"][name]
        path = self.file(labels_name(name), sha256)
        table = _parquet(path, sha256, self.info["counts"]["planned"])
        findings = tuple(column for column in table.columns if column not in ("row", "split"))
        numbers = all(pd.api.types.is_integer_dtype(kind) for kind in table[list(findings)].dtypes)
        if "split" not in table or not table.columns.is_unique or not numbers:
            raise UserError(f"{path}: not a table of labels (split, and whole numbers per finding); attach it again")
        codes, names_of_splits = pd.factorize(table["split"])  # one text per split, not per row
        split = np.array([*names_of_splits, None], dtype=object)[codes]
        values = np.empty((len(table), len(findings)), dtype=np.int8)
        for place, finding in enumerate(findings):
            whole = table.pop(finding).fillna(Labels.BLANK).to_numpy()
            values[:, place] = whole.astype(np.int8)
            if (whole < -1).any() or ((whole > 1) & (whole != Labels.BLANK)).any():
                raise UserError(f"{path}: finding {finding!r} holds numbers other than 1, 0 and -1; attach it again")
        return Labels(name, findings, split, values, sha256)

    def stored(self, pixels: int) -> StoredSize:
        """Where one stored size's renditions are. Raises UserError if the size is not stored here."""
        if pixels not in self.sizes:
            stored = ", ".join(map(str, self.sizes)) or "none"
            raise UserError(f"{self.root}: size {pixels} is not stored here; stored are {stored}")
        if pixels not in self._stored:
            self._stored[pixels] = self._find_stored(pixels)
        return self._stored[pixels]

    @cached_property
    def _stored(self) -> dict[int, StoredSize]:
        return {}

    def _find_stored(self, pixels: int) -> StoredSize:
        entry, names = self.info["sizes"][str(pixels)], ("shard", f"offset_{pixels}", f"length_{pixels}")
        table = self.columns(*names)
        shard, offset, length = (table[name].fillna(-1).to_numpy(dtype=np.int64) for name in names)
        described = {int(Path(each["name"]).stem): each for each in entry["shards"]}
        held = pd.Series({number: each["bytes"] for number, each in described.items()}, dtype=np.int64)
        held = held.reindex(shard, fill_value=0).to_numpy()
        outside = (shard >= 0) & ((length == 0) | (offset > held - length))
        if outside.any():  # a slice would end with the file, and no error
            row = int(outside.argmax())
            raise UserError(f"{self.root}: row {row} lies outside shard {shard[row]} of size {pixels}; pack again")
        return StoredSize(
            pixels=pixels,
            raw=entry["encoding"] == "raw",
            paths={number: self.place(each["name"]) for number, each in described.items()},
            described=described,
            shard=shard,
            offset=offset,
            length=length,
            mirror=self.mirror,
        )

    def key(self, row: int) -> str:
        """The sample key of a catalog row."""
        at = self.catalog.iloc[row]
        return sample_key(at["subject_id"], at["study_id"], at["image_id"])
