"""What was found of new images, and its files: for people (.csv), for programs (.jsonl), as a table (.parquet)."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdali.postprocess.thresholds import Thresholds
from cxrdali.predictions import Predictions, check_writable, sigmoid
from shards.errors import UserError
from shards.renditions.source import kind_of
from shards.storage.files import write_bytes
from shards.storage.for_people import guarded
from shards.storage.sidecar import write_with_hash

TABLE = ".parquet"
SUFFIXES = (".csv", ".jsonl", TABLE)
_CELLS = {"probability": "{:.9g}".format, "present": lambda present: "yes" if present else "no"}


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What was found of new images.

    paths: of the images that were judged, as given; table: their logits, in that order; decisions: bool [n, F], whether
    a finding is present, by these thresholds, or None without; rejects: path and reason of the others.
    """

    paths: tuple[str, ...]
    table: Predictions
    decisions: np.ndarray | None
    thresholds: Thresholds | None
    rejects: tuple[tuple[str, str], ...]

    @property
    def rejected(self) -> str:
        """How many were rejected, by reason, in words; "" if none was."""
        reasons = Counter(kind_of(reason) for _, reason in self.rejects).most_common()
        return ", ".join(f"{images:,} {reason}" for reason, images in reasons)


def check_target(out: Path, inputs: Sequence[str]) -> None:
    """Raises UserError if verdicts could not be written to `out`, or would replace one of the paths given."""
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: verdicts on new images are written as {', '.join(SUFFIXES)}; change the suffix")
    check_writable(out)
    for path in (out, rejects_path(out)):
        if path.resolve() in [Path(each).resolve() for each in inputs]:
            raise UserError(f"{path}: is one of --images, and would be written over; give another --out")


def rejects_path(out: Path) -> Path:
    return out.with_name(f"{out.name}.rejects.csv")


def write(verdicts: Verdicts, out: Path, probabilities: bool) -> None:
    """Write what was judged by the suffix of `out`, and beside it what was rejected.

    probabilities: what a .parquet holds in place of logits; the others hold probabilities. The list of rejects is there
    if something was rejected: one of an earlier call goes.
    """
    rejects = rejects_path(out)
    if verdicts.rejects:
        write_bytes(rejects, _csv([("path", "reason"), *verdicts.rejects]))
    else:
        rejects.unlink(missing_ok=True)
    about = json.dumps(verdicts.table.provenance.as_json())
    if out.suffix == TABLE:
        (verdicts.table.as_probabilities() if probabilities else verdicts.table).write(out)
    elif out.suffix == ".csv":
        write_with_hash(out, _csv(_rows(verdicts)), about)
    else:
        lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in _objects(verdicts))
        write_with_hash(out, "".join(lines).encode(errors="backslashreplace"), about)


def _rows(verdicts: Verdicts) -> Iterator[Sequence[object]]:
    kinds = ["probability"] + ["present"] * (verdicts.decisions is not None)
    yield "path", "image_id", *(f"{name} {kind}" for kind in kinds for name in verdicts.table.findings)
    for row in _objects(verdicts):
        cells = [_CELLS[kind](each[kind]) for kind in kinds for each in row["findings"]]
        yield row["path"], row["image_id"], *cells


def _objects(verdicts: Verdicts) -> Iterator[dict]:
    findings, decisions, made = verdicts.table.findings, verdicts.decisions, verdicts.thresholds
    limits = [rule.probability for rule in made.rules] if made else [None] * len(findings)
    names = ("name", "probability", "threshold", "present")
    for place, (path, image) in enumerate(zip(verdicts.paths, verdicts.table.ids["image_id"], strict=True)):
        present = [None] * len(findings) if decisions is None else decisions[place].tolist()
        columns = zip(findings, sigmoid(verdicts.table.values[place]).tolist(), limits, present, strict=True)
        yield {"path": path, "image_id": image, "findings": [dict(zip(names, each, strict=True)) for each in columns]}


def _csv(rows: Iterator[Sequence[object]] | Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([guarded(cell) for cell in row] for row in rows)
    return text.getvalue().encode(errors="backslashreplace")
