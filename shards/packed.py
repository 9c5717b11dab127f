"""The reading side of a packed dataset: its description, catalog, labels and stored bytes."""

import io
import mmap
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from shards.description import DATASET, FORMAT, labels_path, read_description
from shards.errors import DataError
from shards.files import sha256_bytes


def _parquet(path: Path, expected: str | None) -> tuple[pd.DataFrame, str]:
    """A table and its sha256, which is checked first: a flipped bit in a parquet file often reads as another number."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it or pack again") from error
    sha256 = sha256_bytes(data)
    if expected is not None and sha256 != expected:
        raise DataError(f"{path}: its hash is not the one in dataset.json; restore it or pack again")
    try:
        return pd.read_parquet(io.BytesIO(data)), sha256
    except Exception as error:  # arrow raises many kinds on damage
        raise DataError(f"{path}: not a readable table ({' '.join(str(error).split())}); attach it again") from error


@dataclass(frozen=True)
class Labels:
    """One label release joined to the catalog's rows.

    split: object [rows], "train", "dev", "test" or None; values: int8 [rows, findings], 1 positive,
    0 negative, -1 uncertain, BLANK not mentioned.
    """

    BLANK = 9

    name: str
    findings: tuple[str, ...]
    split: np.ndarray
    values: np.ndarray
    sha256: str


@dataclass(frozen=True)
class StoredSize:
    """Where the renditions of one size are: per catalog row shard (-1 if rejected), offset and length in bytes."""

    pixels: int
    raw: bool
    paths: dict[int, Path]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray


@dataclass(frozen=True)
class PackedDataset:
    """A published packed dataset. Opening reads dataset.json and checks that every shard has its size."""

    root: Path
    info: dict

    @classmethod
    def open(cls, root: Path) -> "PackedDataset":
        """Raises DataError if there is none, or if a count or a size shows that it is not whole."""
        path = root / DATASET
        if not path.exists():
            unfinished = (root / ".packing").exists()
            way_out = "run the same `cxrdali shard` again to finish it" if unfinished else "run `cxrdali shard` first"
            raise DataError(f"{root}: {'an unfinished' if unfinished else 'no'} packed dataset; {way_out}")
        info, sealed = read_description(root)
        if info.get("format") != FORMAT:
            raise DataError(f"{path}: format {info.get('format')!r}, this cxrdali reads {FORMAT}; pack again")
        if not sealed:
            raise DataError(f"{path}: its checksum does not match, the file was changed; restore it or pack again")
        dataset = cls(root, info)
        dataset._check_sizes()
        return dataset

    def _check_sizes(self) -> None:
        """Sizes whose folder is absent are fine (a node needs only those it trains on); half a folder is not."""
        for name, size in self.info["sizes"].items():
            if not (self.root / name).exists():
                continue
            for shard in size["shards"]:
                path = self.root / shard["name"]
                found = path.stat().st_size if path.exists() else None
                if found != shard["bytes"]:
                    what = "is missing" if found is None else f"has {found} bytes"
                    raise DataError(
                        f"{path}: {what}, dataset.json says {shard['bytes']}; "
                        f"copy it again, or delete {self.root} and pack again"
                    )

    @property
    def id(self) -> str:
        return self.info["id"]

    @property
    def sizes(self) -> list[int]:
        """Stored sizes present on this disk, in pixels, ascending."""
        return sorted(s["pixels"] for name, s in self.info["sizes"].items() if (self.root / name).exists())

    @cached_property
    def catalog(self) -> pd.DataFrame:
        path = self.root / "catalog.parquet"
        table, _ = _parquet(path, self.info["catalog_sha256"])
        if len(table) != self.info["counts"]["planned"]:
            raise DataError(
                f"{path}: {len(table)} rows, dataset.json says {self.info['counts']['planned']}; restore it"
            )
        self._check_catalog(table, path)
        return table

    def _check_catalog(self, table: pd.DataFrame, path: Path) -> None:
        """Its hash says that it is the one that was packed; this, that it is one that cxrdali packed."""
        texts = ["image_id", "study_id", "subject_id", "view"]
        places = ["shard", *(f"{column}_{size}" for size in self.info["sizes"] for column in ("offset", "length"))]
        for column in texts + places:
            if list(table.columns).count(column) != 1:
                raise DataError(f"{path}: column {column!r} is missing or stands twice; pack again")
            right = pd.api.types.is_string_dtype if column in texts else pd.api.types.is_integer_dtype
            present = table[column].notna()
            wanted = True if column in texts else table["shard"].notna()
            negative = column in places and right(table[column]) and (table[column].dropna() < 0).any()
            if not right(table[column]) or not (present == wanted).all() or negative:
                raise DataError(f"{path}: column {column!r} holds what packing does not write; pack again")

    @cached_property
    def packed(self) -> np.ndarray:
        """bool [rows]: whether the row's image was packed (False for a reject)."""
        return self.catalog["shard"].notna().to_numpy()

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
            raise DataError(
                f"{self.root}: no label release is attached; attach one: cxrdali label {self.root} --labels DIR"
            )
        name = name or names[0]
        if name not in names:
            raise DataError(
                f"{self.root}: no labels {name!r}; attached are {', '.join(names)} (cxrdali label attaches others)"
            )
        path = labels_path(self.root, name)
        table, sha256 = _parquet(path, self.info["labels"][name])
        if len(table) != self.info["counts"]["planned"]:
            raise DataError(f"{path}: {len(table)} rows, the catalog has {self.info['counts']['planned']}")
        findings = tuple(column for column in table.columns if column not in ("row", "split"))
        numbers = all(pd.api.types.is_integer_dtype(kind) for kind in table[list(findings)].dtypes)
        if "split" not in table or not table.columns.is_unique or not numbers:
            raise DataError(f"{path}: not a table of labels (split, and whole numbers per finding); attach it again")
        split = table["split"].astype(object).where(table["split"].notna(), None).to_numpy()
        values = table[list(findings)].fillna(Labels.BLANK).to_numpy(dtype=np.int8)
        return Labels(name, findings, split, values, sha256)

    def stored(self, pixels: int) -> StoredSize:
        """Where one stored size's renditions are. Raises DataError if the size is not stored here."""
        if pixels not in self.sizes:
            stored = ", ".join(map(str, self.sizes)) or "none"
            raise DataError(f"{self.root}: size {pixels} is not stored here; stored are {stored}")
        entry = self.info["sizes"][str(pixels)]
        column = {
            name: self.catalog[name].fillna(-1).to_numpy(dtype=np.int64)
            for name in ("shard", f"offset_{pixels}", f"length_{pixels}")
        }
        shard, offset, length = column["shard"], column[f"offset_{pixels}"], column[f"length_{pixels}"]
        held = {int(Path(shard["name"]).stem): shard["bytes"] for shard in entry["shards"]}
        held = np.array([held.get(number, 0) for number in shard.tolist()], dtype=np.int64)
        outside = (shard >= 0) & ((length == 0) | (offset > held - length))
        if outside.any():  # a slice would end with the file, and no error
            row = int(outside.argmax())
            raise DataError(f"{self.root}: row {row} lies outside shard {shard[row]} of size {pixels}; pack again")
        return StoredSize(
            pixels=pixels,
            raw=entry["encoding"] == "raw",
            paths={int(Path(shard["name"]).stem): self.root / shard["name"] for shard in entry["shards"]},
            shard=shard,
            offset=offset,
            length=length,
        )

    def key(self, row: int) -> str:
        """The sample key of a catalog row."""
        from shards.plan import sample_key

        at = self.catalog.iloc[row]
        return sample_key(at["subject_id"], at["study_id"], at["image_id"])


class MappedSize:
    """The stored bytes of one size as memory-mapped slices: no copy, pages come from the kernel's cache."""

    def __init__(self, stored: StoredSize):
        self.stored = stored
        self._maps = {}
        for number, path in stored.paths.items():
            with path.open("rb") as file:
                self._maps[number] = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        # plain ndarrays: slicing an np.memmap costs several times as much
        self._arrays = {number: np.frombuffer(data, dtype=np.uint8) for number, data in self._maps.items()}
        self._spans = list(zip(stored.shard.tolist(), stored.offset.tolist(), stored.length.tolist(), strict=True))

    def __getitem__(self, row: int) -> np.ndarray:
        """The bytes of one row's KEY.jpg or KEY.npy: uint8 [length], a read-only view."""
        shard, offset, length = self._spans[row]
        return self._arrays[shard][offset : offset + length]

    def pixels(self, row: int) -> np.ndarray:
        """A raw row's image: uint8 [S, S, 1], a read-only view (the .npy header precedes the pixels)."""
        side = self.stored.pixels
        shard, offset, length = self._spans[row]
        end = offset + length
        return self._arrays[shard][end - side * side : end].reshape(side, side, 1)

    def forget(self, shard: int) -> None:
        """Give a shard's pages back to the kernel and its page cache; what is read again comes from the disk again."""
        self._maps[shard].madvise(mmap.MADV_DONTNEED)  # first: a page that a process has mapped stays in the cache
        with self.stored.paths[shard].open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
