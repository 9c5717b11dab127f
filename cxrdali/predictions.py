"""The one table of predictions: image_id, study_id, view, then one column per finding.

Logits (float32) by default, because probabilities saturate into ties; probabilities on demand. Parquet keeps
what the table is in its metadata; a CSV holds the same columns and nothing else.
"""

import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import DataError
from shards.files import write_bytes
from shards.tables import one_line, read_table

ID_COLUMNS = ("image_id", "study_id", "view")
KINDS = ("logit", "probability")


@dataclass(frozen=True)
class Provenance:
    """Where a table came from; fields that are not known are None."""

    kind: str | None = None
    run: str | None = None
    split: str | None = None
    labels: str | None = None
    dataset: str | None = None


@dataclass(frozen=True)
class Predictions:
    """`ids` has the text columns ID_COLUMNS; `values` is float32 [n, F], in the order of `findings`."""

    ids: pd.DataFrame
    findings: tuple[str, ...]
    values: np.ndarray
    provenance: Provenance = Provenance()

    def write(self, path: Path) -> None:
        """As .parquet or .csv, by the suffix; written aside and renamed."""
        check_target(path)
        table = pd.concat(
            [self.ids.reset_index(drop=True), pd.DataFrame(self.values, columns=list(self.findings))], axis=1
        )
        if path.suffix == ".csv":
            write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())
            return
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        arrow = arrow.replace_schema_metadata(
            {**(arrow.schema.metadata or {}), "cxrdali": json.dumps(asdict(self.provenance))}
        )
        buffer = io.BytesIO()
        pq.write_table(arrow, buffer, compression="zstd")
        write_bytes(path, buffer.getvalue())

    def as_probabilities(self) -> "Predictions":
        """Sigmoid of logits, computed without overflow."""
        values = np.exp(-np.logaddexp(0, -self.values.astype(np.float64))).astype(np.float32)
        provenance = Provenance(**{**asdict(self.provenance), "kind": "probability"})
        return Predictions(self.ids, self.findings, values, provenance)


def check_target(path: Path) -> None:
    """Raises DataError if a table could not be written to `path`."""
    if path.suffix not in (".parquet", ".csv"):
        raise DataError(f"{path}: predictions are written as .parquet or .csv; change the file's suffix")
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: no such folder; make it, or give another --out")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"{path.parent}: no permission to write there; give another --out")


def read(path: Path) -> Predictions:
    """Raises DataError naming file, column and value if the table is not one, or holds NaN or an id twice."""
    try:
        data = path.read_bytes()
        if path.suffix == ".csv":
            table, stored = read_table(path), {}  # pandas would rename a doubled column and shift long rows
        else:
            arrow = pq.read_table(io.BytesIO(data))
            table = arrow.to_pandas()
            stored = json.loads((arrow.schema.metadata or {}).get(b"cxrdali", b"{}"))
            if not isinstance(stored, dict):
                raise ValueError("its metadata is damaged")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `cxrdali predict` writes one") from None
    except DataError:
        raise
    except Exception as error:  # arrow raises many kinds on damage
        raise DataError(f"{path}: not a table of predictions ({one_line(str(error))}); predict again") from error
    missing = [name for name in ID_COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; predictions start with {', '.join(ID_COLUMNS)}")
    findings = tuple(name for name in table.columns if name not in ID_COLUMNS)
    if not findings:
        raise DataError(f"{path}: no column of a finding")
    if not len(table):
        raise DataError(f"{path}: a header and no image; predict again")
    if table[list(ID_COLUMNS)].isna().to_numpy().any() or (table["image_id"] == "").any():
        raise DataError(f"{path}: an id or a view is missing; predict again")
    columns = []
    for name in findings:
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
        if table[name].dtype.kind in "mM":  # dates and durations would count as nanoseconds
            raise DataError(f"{path}: finding {name!r} holds no numbers, but {table[name].dtype}")
        bad = ~(np.abs(values) <= np.finfo(np.float32).max)  # NaN, infinite, or too large for the table
        if bad.any():
            image, value = table["image_id"][bad].iloc[0], table[name][bad].iloc[0]
            raise DataError(f"{path}: finding {name!r} is {str(value)!r} for image {image!r}, no number; predict again")
        columns.append(values.astype(np.float32))
    doubled = table["image_id"].duplicated()
    if doubled.any():
        raise DataError(f"{path}: image {table.loc[doubled, 'image_id'].iloc[0]!r} stands in more than one row")
    known = {key: stored.get(key) for key in ("kind", "run", "split", "labels", "dataset")}
    return Predictions(
        table[list(ID_COLUMNS)].astype(str),
        findings,
        np.stack(columns, axis=1),
        Provenance(**known),
    )
