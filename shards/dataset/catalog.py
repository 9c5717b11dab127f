"""catalog.parquet of a packed dataset: a row per planned image, and what packing writes of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from shards.dataset.tables import Table, readable
from shards.errors import UserError

CATALOG = "catalog.parquet"
TEXTS = ("image_id", "study_id", "subject_id", "view")
# of some releases, or attached later (`subjects_name`), and null where it is not known: F or M, years, the machine's
# make and model, the year of the study
PEOPLE = ("sex", "age", "race", "manufacturer", "model", "year")


class Catalog(Table):
    """Its hash says that it is the one that was packed; the checks of what is read, that it is one cxrdali packed."""

    def __init__(self, path: Path, sha256: str, rows: int, sizes: tuple[str, ...]):
        super().__init__(path, sha256, rows)
        self._places = ["shard", *(f"{what}_{size}" for size in sizes for what in ("offset", "length"))]

    def whole(self) -> pd.DataFrame:
        """All columns."""
        with readable(self.path):
            table = pd.read_parquet(self._open()[0])
            for name in table.columns[table.dtypes == "str"]:
                pa.array(table[name]).validate(full=True)  # a text need not be UTF-8
        for column in (*TEXTS, *self._places):
            if list(table.columns).count(column) != 1:
                raise _wrong(self.path, column, False)
            text = column in TEXTS
            right = pd.api.types.is_string_dtype if text else pd.api.types.is_integer_dtype
            present = table[column].notna() == (True if text else table["shard"].notna())
            negative = not text and right(table[column]) and (table[column].dropna() < 0).any()
            if not right(table[column]) or not present.all() or negative:
                raise _wrong(self.path, column)
        _check_shown(table, self.path)
        return table

    def arrow(self, names: Sequence[str]) -> pa.Table:
        """Some columns, as arrow has them. Those that are only shown and counted are not checked."""
        table = super().arrow(names)
        for name in names:
            there = name in table.column_names
            kind = _KINDS.get(name, _is_text)
            wrong = there and name in (*TEXTS, *PEOPLE) and not kind(table[name].type)
            wrong = wrong or (there and name in TEXTS and table[name].null_count)
            if not there or wrong:
                raise _wrong(self.path, name, there)
        return table.select([*names])

    def numbers(self, names: Sequence[str]) -> list[np.ndarray]:
        """Columns of where images are: int32 [rows] each, or int64 where they need it, -1 of a reject."""
        found: list[list[np.ndarray]] = [[np.empty(0, dtype=np.int32)] for _ in names]
        for piece in self.pieces([*dict.fromkeys(("shard", *names))]):
            for name, made in zip(names, found, strict=True):
                made.append(self._numbers(piece, name))
        return [np.concatenate(made) for made in found]

    def _numbers(self, piece: pa.RecordBatch, name: str) -> np.ndarray:
        for needed in (name, "shard"):
            if needed not in piece.schema.names:
                raise _wrong(self.path, needed, False)
        column = piece[name]
        if not pa.types.is_integer(column.type) or not column.is_valid().equals(piece["shard"].is_valid()):
            raise _wrong(self.path, name)
        with readable(self.path):
            numbers = pc.fill_null(column.cast(pa.int64()), -1).to_numpy()
        if (numbers < 0).sum() > column.null_count:
            raise _wrong(self.path, name)
        return numbers.astype(np.int32) if numbers.max(initial=0) < 2**31 else numbers


class Subjects(Table):
    """What was attached of the images' people: a row per planned image, columns of PEOPLE."""

    def columns(self) -> list[str]:
        return [name for name in PEOPLE if name in self.names()]

    def arrow(self, names: Sequence[str]) -> pa.Table:
        table = super().arrow(names)
        for name in names:
            if name not in table.column_names or not _KINDS.get(name, _is_text)(table[name].type):
                raise UserError(f"{self.path}: column {name!r} is missing, or not as it is attached; attach it again")
        return table.select([*names])


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


_KINDS = {"age": pa.types.is_floating, "year": pa.types.is_integer}


def _wrong(path: Path, column: str, there: bool = True) -> UserError:
    what = "holds what packing does not write" if there else "is missing or duplicated"
    return UserError(f"{path}: column {column!r} {what}; pack again")


def _check_shown(table: pd.DataFrame, path: Path) -> None:
    """Of a catalog, the columns that are only shown and counted: numbers or texts where there is anything."""
    numbers, texts = pd.api.types.is_numeric_dtype, pd.api.types.is_string_dtype
    kinds = {"height": numbers, "width": numbers, "view_position": texts, "converted": texts, "pixels": texts}
    kinds |= {name: numbers if name in _KINDS else texts for name in PEOPLE}
    for column, right in kinds.items():
        if column in ("converted", "pixels", *PEOPLE) and column not in table:
            continue  # of an earlier version, or of a release that does not have it
        fits = list(table.columns).count(column) == 1
        if fits and not (held := table[column].dropna()).empty:
            fits = right(held) and (column != "pixels" or held.str.len().max() <= 64)
        if not fits:
            raise _wrong(path, column)
