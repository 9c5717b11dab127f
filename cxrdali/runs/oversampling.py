"""Oversampling of Yamagishi & Hanaoka 2023 as an array of rows, no copied bytes.

Images with a finding whose validation AP (of an earlier model) is below a threshold are doubled; with several, once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali.data.targets import Targets, any_positive
from cxrdali.runs.reader import Run
from shards.errors import UserError
from shards.storage.csv import read_table
from shards.storage.files import read_regular
from shards.storage.for_people import unguarded
from shards.storage.sealed import check_kinds, maybe, read_json
from shards.storage.sidecar import check_hash
from shards.storage.table_file import MOST
from shards.words import choices


@dataclass(frozen=True)
class Oversampling:
    """What a run doubled. findings: those whose images are; below, source: AP threshold and where the APs came from
    (None if the findings were named); without_ap: findings without a positive or a negative in validation there."""

    findings: tuple[str, ...]
    below: float | None
    source: str | None
    without_ap: tuple[str, ...]
    images_doubled: int
    epoch_images: int

    def as_json(self) -> dict:
        values = asdict(self)
        return {"from": values.pop("source"), **values, "findings": [*self.findings], "without_ap": [*self.without_ap]}


def read_ap(source: Path) -> dict[str, float | None]:
    """Validation AP by finding: of a finished run's best epoch, or from a table that `cxrdali evaluate` wrote.

    A CSV needs the columns finding and AP; where it has a column view, the rows of all views count.
    """
    ap = _read_ap(source)
    for name, value in ap.items():
        if value is not None and not (value != value or 0 <= value <= 1):
            raise UserError(f"{source}: the AP of {name!r} is {value}; give numbers from 0 to 1")
    return ap


def _read_ap(source: Path) -> dict[str, float | None]:
    try:
        if source.is_dir():
            run = Run.open(source)
            run.check_finished("finish it first, or oversample from the metrics of an evaluation")
            return run.best_ap
        if source.suffix == ".json":
            stored = read_json(source)
            check_kinds(stored, {"all": {"findings": [{"finding": str, "AP": maybe(float)}]}})
            rows = stored["all"]["findings"]  # without a negative, an older version's AP is 1.0
            return {row["finding"]: None if row.get("negatives") == 0 else row["AP"] for row in rows}
        check_hash(source, read_regular(source, MOST))
        table = read_table(source, again="evaluate again")
        if "view" in table:
            table = table[table["view"] == "all"]
        table = table[table["finding"] != ""].assign(finding=lambda rows: rows["finding"].map(unguarded))  # no means
        if "negatives" in table:
            table.loc[pd.to_numeric(table["negatives"]) == 0, "AP"] = ""
        if table["finding"].duplicated().any():
            twice = table.loc[table["finding"].duplicated(), "finding"].iloc[0]
            raise UserError(f"{source}: finding {twice!r} is duplicated; give a table with one row per finding")
        return dict(zip(table["finding"], pd.to_numeric(table["AP"].replace("", None)).tolist(), strict=True))
    except FileNotFoundError:
        raise UserError(
            f"{source}: no such run or metrics; give a run folder, or what `cxrdali evaluate` wrote"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{source}: no table of AP per finding ({error!r}); give a run folder, or what `cxrdali evaluate` wrote"
        ) from error


def chosen_findings(
    names: Sequence[str], below: float | None, source: Path | None, findings: Sequence[str], stored: dict | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which findings' images are doubled, and which had no AP to choose by.

    stored: the record of the run that continues; it counts where the source was deleted since. Raises UserError for
    an unknown finding, or a source whose findings are not the dataset's.
    """
    for name in names:
        if name not in findings:
            raise UserError(f"oversample {name!r}: no such finding; {choices(name, findings, 'the labels have')}")
    if below is None or source is None:  # the settings have both or none
        return tuple(names), ()
    if stored and not source.exists():
        return tuple(stored["findings"]), tuple(stored["without_ap"])
    ap = read_ap(source)
    differing = sorted(set(ap) ^ set(findings))
    if differing:
        where = "there" if differing[0] in ap else "in the dataset's labels"
        raise UserError(
            f"{source}: finding {differing[0]!r} (and {len(differing) - 1} more) is only {where}; "
            "oversample from a run on the same --labels"
        )
    return choose({name: ap[name] for name in findings}, below)


def choose(ap: Mapping[str, float | None], below: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Findings with an AP under `below` (0 to 1), and those without an AP (None or NaN), both in the order of `ap`."""
    known = {name: value for name, value in ap.items() if value is not None and value == value}
    low = tuple(name for name, value in known.items() if value < below)
    return low, tuple(name for name in ap if name not in known)


def oversampled(
    rows: np.ndarray, targets: np.ndarray | Targets, findings: Sequence[str], chosen: Sequence[str]
) -> np.ndarray:
    """`rows` (int64 [n], ascending) with those twice that are positive (1) for a chosen finding: int64 [m], ascending.

    targets: float32 [all rows, F] in the order of `findings`.
    """
    doubled = any_positive(targets, rows, [list(findings).index(name) for name in chosen])
    return np.repeat(rows, 1 + doubled)
