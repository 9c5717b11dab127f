"""The one table of predictions: read it, write it, join it to labels, pool several.

Columns: image_id, study_id, view, then one per finding. Logits (float32) by default, because probabilities saturate
into ties; probabilities on demand. Parquet keeps what the table is in its metadata, and a checksum over all that is
read of it; a CSV holds the columns alone, and has what it is and its hash beside it.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxrdali.fitted import BEFORE, BEST_EPOCH, CALIBRATION, VIEW_RULES, WEIGHTS, Fitted, joined, sketch
from cxrdali.provenance import Kind, Provenance, from_json
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.storage.csv import one_line, read_table
from shards.storage.files import read_regular, write_bytes
from shards.storage.parquet import bounded
from shards.storage.sealed import CHANGED, note_unsealed
from shards.storage.sidecar import check_hash, write_with_hash
from shards.storage.table_file import MOST

ID_COLUMNS = ("image_id", "study_id", "view")
ABOUT, CHECKSUM = b"cxrdali", b"cxrdali.checksum"  # entries of a parquet file's metadata


@dataclass(frozen=True)
class Predictions:
    """`ids` has the text columns ID_COLUMNS; `values` is float32 [n, F], in the order of `findings`."""

    ids: pd.DataFrame
    findings: tuple[str, ...]
    values: np.ndarray
    provenance: Provenance = Provenance()

    @property
    def fitted(self) -> tuple[Fitted, ...]:
        """What was fitted on its way. Of a table of before this was noted: what its split and its history say."""
        about = self.provenance
        if about.fitted is not None:
            return about.fitted
        marks = {"calibrated: ": CALIBRATION, "view postprocess by ": VIEW_RULES, " to the mAP of ": WEIGHTS}
        done = [what for mark, what in marks.items() if any(mark in step for step in about.history)]
        best = [Fitted((BEST_EPOCH,), sketch(self.ids), "val")] if about.split == "val" else []
        return joined([*best, *(Fitted((what,)) for what in ([BEFORE] if about.says_nothing else done))])

    def write(self, path: Path) -> None:
        """As .parquet or .csv, by the suffix; written aside and renamed."""
        check_target(path)
        table = pd.concat(
            [self.ids.reset_index(drop=True), pd.DataFrame(self.values, columns=list(self.findings))], axis=1
        )
        if path.suffix == ".csv":
            text = table.to_csv(index=False, lineterminator="\n")
            write_with_hash(path, text.encode(), json.dumps(self.provenance.as_json()))
            return
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        about = json.dumps(self.provenance.as_json()).encode()
        sealed = {ABOUT: about, CHECKSUM: self.checksum(about).encode()}
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **sealed})
        buffer = io.BytesIO()
        pq.write_table(arrow, buffer, compression="zstd")
        write_bytes(path, buffer.getvalue())

    def checksum(self, about: bytes) -> str:
        """Over ids, findings and values as they are used, and what a file says `about` them."""
        made = hashlib.sha256(about + b"\n")
        made.update(json.dumps([self.findings, *(self.ids[name].tolist() for name in ID_COLUMNS)]).encode())
        made.update(np.ascontiguousarray(self.values, dtype="<f4"))
        return made.hexdigest()

    def as_probabilities(self) -> "Predictions":
        """Sigmoid of logits, computed without overflow. Raises UserError for mean ranks, which are no probabilities."""
        if self.provenance.kind == Kind.RANK:
            raise UserError("mean ranks are no probabilities; write them as logits, or calibrate them first")
        provenance = replace(self.provenance, kind=Kind.PROBABILITY)
        return replace(self, values=sigmoid(self.values).astype(np.float32), provenance=provenance)

    def of(self, findings: Sequence[str]) -> "Predictions":
        """With these findings alone, in this order."""
        columns = [self.findings.index(name) for name in findings]
        return replace(self, findings=tuple(findings), values=self.values[:, columns])

    def after(self, values: np.ndarray, step: str, **provenance) -> "Predictions":
        """The table with other values, made by a step that is added to the history; provenance: what else changes."""
        history = (*self.provenance.history, step)
        return replace(self, values=values, provenance=replace(self.provenance, history=history, **provenance))


def read(path: Path) -> Predictions:
    """Raises UserError naming file, column and value if the table is none, holds NaN or an id twice, or was changed."""
    table, provenance, metadata = _opened(path)
    missing = [name for name in ID_COLUMNS if name not in table.columns]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; predictions start with {', '.join(ID_COLUMNS)}")
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise UserError(f"{path}: column {twice!r} is duplicated; predict again")
    findings = tuple(name for name in table.columns if name not in ID_COLUMNS)
    if not findings:
        raise UserError(f"{path}: no column of a finding")
    if not len(table):
        raise UserError(f"{path}: a header and no image; predict again")
    if table[list(ID_COLUMNS)].isna().to_numpy().any() or (table["image_id"] == "").any():
        raise UserError(f"{path}: an id or a view is missing; predict again")
    values = np.stack([_numbers(path, table, name) for name in findings], axis=1)
    doubled = table["image_id"].duplicated()
    if doubled.any():
        raise UserError(f"{path}: image {table.loc[doubled, 'image_id'].iloc[0]!r} is in more than one row")
    found = Predictions(table[list(ID_COLUMNS)].astype(str), findings, values, provenance)
    if CHECKSUM in metadata:
        if found.checksum(metadata.get(ABOUT, b"")).encode() != metadata[CHECKSUM]:
            raise UserError(f"{path}: {CHANGED}; restore it, or make it again")
    elif path.suffix != ".csv":
        note_unsealed(path)
    return found


def _opened(path: Path) -> tuple[pd.DataFrame, Provenance, dict[bytes, bytes]]:
    """The file's columns, what it says of itself, and its metadata, where that stands (none in a CSV)."""
    try:
        data = read_regular(path, MOST)
        if path.suffix == ".csv":
            about = from_json(json.loads(check_hash(path, data) or "{}"))
            # pandas would rename a doubled column, shift long rows
            return read_table(path, again="predict again"), about, {}
        arrow = bounded(path, data)
        metadata = arrow.schema.metadata or {}
        return arrow.to_pandas(), from_json(json.loads(metadata.get(ABOUT, b"{}"))), metadata
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `cxrdali predict` writes one") from None
    except UserError:
        raise
    except Exception as error:  # arrow raises many kinds on damage
        raise UserError(f"{path}: not a table of predictions ({one_line(str(error))}); predict again") from error


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float64, 0 to 1: float32 logits up to about 20 that differ stay different, which float32 would make ties."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def as_logits(table: Predictions, path: Path) -> Predictions:
    """The table if it holds logits, to be pooled; a CSV does not say, and counts as logits if a value leaves 0..1.

    Raises UserError for probabilities: they saturate, so that their logits are lost.
    """
    kind = table.provenance.kind
    unsaid = kind is None and ((table.values >= 0) & (table.values <= 1)).all()
    if kind == Kind.PROBABILITY or unsaid:
        what = "every value lies within 0..1, as in a table of probabilities" if unsaid else "holds probabilities"
        raise UserError(f"{path}: {what}, which saturate; give the table of logits that `cxrdali predict` writes")
    return replace(table, provenance=replace(table.provenance, kind=kind or Kind.LOGIT))


def catalog_rows(table: Predictions, path: Path, dataset: Dataset) -> np.ndarray:
    """Catalog row of each image: int64 [n]. Raises UserError if the dataset does not have one of them."""
    rows = pd.Index(dataset.catalog["image_id"]).get_indexer(table.ids["image_id"])
    absent = table.ids["image_id"][rows < 0]
    if len(absent):
        raise UserError(
            f"{path}: image {first_of(absent)} is not in {dataset.root}; give the dataset it was predicted on"
        )
    return rows


def of_view(table: Predictions, path: Path, dataset: Dataset, view: str) -> Predictions:
    """The table with the images of a view, "frontal" or "lateral", by the dataset's catalog alone; "all": itself.

    Raises UserError if there is none.
    """
    if view == "all":
        return table
    keep = (dataset.catalog["view"].iloc[catalog_rows(table, path, dataset)] == view).to_numpy()
    if not keep.any():
        raise UserError(f"{path}: no {view} image among its {len(keep):,}; give another --view")
    left = replace(table, ids=table.ids[keep].reset_index(drop=True), values=table.values[keep])
    return left.after(left.values, f"{view} images alone, {keep.sum():,} of {len(keep):,}", images=None)


def match(path: Path, table: Predictions, dataset: Dataset, labels: Labels) -> tuple[np.ndarray, list[int]]:
    """Catalog rows of the table's images (int64 [n]), and its columns in the order of the labels' findings.

    Raises UserError for an image that dataset or labels do not have, or a finding that only one side has.
    """
    rows = catalog_rows(table, path, dataset)
    unlisted = rows[pd.isna(labels.split[rows])]
    if len(unlisted):
        image = dataset.catalog["image_id"].iloc[unlisted[0]]
        raise UserError(
            f"{path}: image {image!r} (and {len(unlisted) - 1} more) is not in labels {labels.name!r}; "
            "predict a split of these labels, or choose others with --labels"
        )
    differing = sorted(set(table.findings) ^ set(labels.findings))
    if differing:
        where = "the predictions" if differing[0] in table.findings else f"labels {labels.name!r}"
        raise UserError(f"{path}: finding {differing[0]!r} is only in {where}; choose the labels it was trained on")
    return rows, [table.findings.index(name) for name in labels.findings]


def check_target(path: Path, *inputs: Path) -> None:
    """Raises UserError if a table could not be written to `path`, or would replace one of those it is made from."""
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"{path}: predictions are written as .parquet or .csv; change the file's suffix")
    check_writable(path)
    if path.resolve() in [each.resolve() for each in inputs]:
        raise UserError(f"{path}: is a table that this one is made from; give another --out")


def check_writable(path: Path) -> None:
    """Raises UserError if no file could be written to `path` because its folder is missing or read-only."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it, or give another --out")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent}: no permission to write there; give another --out")


def first_of(names: Collection[str]) -> str:
    """For a message: the first of these names, and how many more there are."""
    first = repr(next(iter(names)))
    return f"{first} (and {len(names) - 1} more)" if len(names) > 1 else first


def mean_logit(logits: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """The logit of the mean probability. logits [K, ...], finite; weights [K], positive, normalised here (None:
    equal). Returns float32 [...].

    With p_k = sigmoid(x_k): log(sum w_k p_k) - log(sum w_k (1 - p_k)), both sums as logsumexp of log-sigmoids.
    """
    log_shares = np.log(_shares(len(logits), weights))
    positive = negative = np.full(np.shape(logits)[1:], -np.inf)
    for share, values in zip(log_shares, logits, strict=True):
        values = np.asarray(values, dtype=np.float64)
        positive = np.logaddexp(positive, share - np.logaddexp(0, -values))
        negative = np.logaddexp(negative, share - np.logaddexp(0, values))
    return (positive - negative).astype(np.float32)


def geometric_logit(logits: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """The mean of the logits, as `mean_logit` takes and returns them.

    It is the logit of the geometric mean of the probabilities, prod p_k^w_k, divided by that plus the geometric mean
    of their complements, so that the two sum to 1 (the logarithmic opinion pool of Bernoulli distributions).
    """
    shares = _shares(len(logits), weights)
    total = np.zeros(np.shape(logits)[1:])
    for share, values in zip(shares, logits, strict=True):
        total += share * np.asarray(values, dtype=np.float64)
    return total.astype(np.float32)


def ranks(values: np.ndarray) -> np.ndarray:
    """Each column's ranks: float64 [n, F] for values [n, F]. 1 is the lowest value, ties share their mean rank."""
    from scipy.stats import rankdata  # half a second of import time, which `cxrdali train` need not wait for

    return rankdata(values, axis=0)


def mean_rank_logit(logits: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """The mean rank of an image within each table, as `mean_logit` takes and returns them; logits [K, n, F].

    The logit of (mean rank - 1/2) / n, which lies between 0 and 1, so it is finite. It says where an image stands
    among these n, not how probable the finding is. Images of equal mean rank stay equal.
    """
    from scipy.special import logit

    _shares(len(logits), weights)
    mean = np.average([ranks(values) for values in logits], axis=0, weights=weights)
    return logit((mean - 0.5) / logits.shape[1]).astype(np.float32)


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "mean": mean_logit,
    "geometric": geometric_logit,
    "rank": mean_rank_logit,
}


def _shares(count: int, weights: Sequence[float] | None) -> np.ndarray:
    """Weights of sum 1: float64 [count]."""
    shares = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (count,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise UserError(f"weights {list(weights)}: give {count}, one per table, each above 0")
    return shares / shares.sum()


def _numbers(path: Path, table: pd.DataFrame, finding: str) -> np.ndarray:
    """A finding's column: float32 [n], finite."""
    if table[finding].dtype.kind in "mM":  # dates and durations would count as nanoseconds
        raise UserError(f"{path}: finding {finding!r} holds no numbers, but {table[finding].dtype}")
    values = pd.to_numeric(table[finding], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.abs(values) <= np.finfo(np.float32).max)  # NaN, infinite, or too large for the table
    if bad.any():
        image, value = table["image_id"][bad].iloc[0], table[finding][bad].iloc[0]
        raise UserError(f"{path}: finding {finding!r} is {str(value)!r} for image {image!r}, no number; predict again")
    return values.astype(np.float32)
