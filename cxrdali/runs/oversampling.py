"""How often a training image is visited: the paper's oversampling as an array of rows, no copied bytes.

Yamagishi & Hanaoka 2023: images with a finding whose validation AP (under an earlier model) is below a threshold
are doubled; an image with several such findings is doubled once.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from cxrdali.data.oversample import choose
from cxrdali.runs.reader import Run
from shards.errors import UserError
from shards.storage.csv import read_table


@dataclass(frozen=True)
class Oversampling:
    """What a run doubled. findings: those whose images are; below, source: AP threshold and where the APs came from
    (None if the findings were named); without_ap: findings that had no positive in validation there, so no AP."""

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
            rows = json.loads(source.read_bytes())["all"]["findings"]
            return {row["finding"]: None if row["AP"] is None else float(row["AP"]) for row in rows}
        table = read_table(source)
        if "view" in table:
            table = table[table["view"] == "all"]
        if table["finding"].duplicated().any():
            twice = table.loc[table["finding"].duplicated(), "finding"].iloc[0]
            raise UserError(f"{source}: finding {twice!r} stands twice; give a table with one row per finding")
        return dict(zip(table["finding"], pd.to_numeric(table["AP"].replace("", None)).tolist(), strict=True))
    except FileNotFoundError:
        raise UserError(
            f"{source}: no such run or metrics; give a run folder, or what `cxrdali evaluate` wrote"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
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
            raise UserError(f"oversample {name!r}: no such finding; the labels have {', '.join(findings)}")
    if below is None:
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
