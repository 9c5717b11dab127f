"""labels/NAME.parquet of a packed dataset: a row per planned image, its split, and a column per finding."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.dataset.labels import PSEUDO, PSEUDO_KEY, SOFT, Coded, Labels
from shards.dataset.tables import Table
from shards.errors import UserError
from shards.storage.sealed import check_kinds, parse_json


def read_labels(table: Table, name: str) -> Labels:
    """Whole numbers, or of soft pseudo-labels probabilities. Raises UserError if the file holds anything else."""
    columns, rows, at = table.names(), table.rows, 0
    findings = tuple(column for column in columns if column not in ("row", "split"))
    split, values = Coded(np.empty(rows, dtype=np.int8)), np.empty((rows, len(findings)), dtype=np.int8)
    if "split" not in columns or len(set(columns)) < len(columns):
        raise _no_labels(table.path)
    pseudo, soft = _pseudo(table), None
    if pseudo and pseudo["how"] == SOFT:
        soft = np.empty((rows, len(findings)), dtype=np.float32)
    for piece in table.pieces():
        split.put(at, piece["split"])
        own = slice(at, at + len(piece))
        for place, finding in enumerate(findings):
            try:
                if soft is None:
                    values[own, place] = _codes(piece[finding], pseudo is not None)
                else:
                    soft[own, place], values[own, place] = _probabilities(piece[finding])
            except TypeError:
                raise _no_labels(table.path) from None
            except ValueError as error:
                raise UserError(f"{table.path}: finding {finding!r} holds {error}; attach it again") from None
        at += len(piece)
    return Labels(name, findings, split, values, table.sha256, pseudo=pseudo, soft=soft)


def _pseudo(table: Table) -> dict | None:
    """What a file of pseudo-labels says of them; None of other labels."""
    about = table.metadata().get(PSEUDO_KEY)
    if about is None:
        return None
    try:
        check_kinds(found := parse_json(about), PSEUDO)
    except ValueError:
        raise _no_labels(table.path) from None
    return found


def _codes(column: pa.Array, pseudo: bool) -> np.ndarray:
    """Whole numbers as `Labels.values` has them. Raises TypeError for other kinds, ValueError for other numbers."""
    if not pa.types.is_integer(column.type):
        raise TypeError
    whole = pc.fill_null(column, Labels.BLANK).to_numpy(zero_copy_only=False)
    if not np.isin(whole, (-1, 0, 1, Labels.BLANK, *([Labels.UNKNOWN] if pseudo else []))).all():
        raise ValueError("numbers other than 1, 0 and -1")
    return whole.astype(np.int8)


def _probabilities(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """float32, NaN where there is none, and int8 codes of these. Raises TypeError for other kinds, ValueError for other
    numbers."""
    if not pa.types.is_floating(column.type):
        raise TypeError
    soft = column.to_numpy(zero_copy_only=False).astype(np.float32)
    given = column.is_valid().to_numpy(zero_copy_only=False)
    if not ((soft >= 0) & (soft <= 1))[given].all():
        raise ValueError("numbers that are no probabilities")
    return soft, np.where(given, soft >= 0.5, Labels.UNKNOWN).astype(np.int8)


def _no_labels(path: Path) -> UserError:
    return UserError(f"{path}: not a table of labels (split, and whole numbers per finding); attach it again")
