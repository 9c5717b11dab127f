"""Weights of a run's best and last epochs (--keep-epochs), beside those of the best one: epochs/7.safetensors.

Which they are follows from the epochs' scores, so a continued run keeps the same. A file is written before its epoch is
saved, and deleted after an epoch with which it is no longer one of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrdali.runs.layout import candidate

FOLDER = "epochs"


def file_of(run: Path, epoch: int) -> Path:
    """epoch: from 1."""
    return run / FOLDER / f"{epoch}.safetensors"


def best_and_last(rows: Sequence[Mapping[str, Any]], column: str, count: int) -> tuple[list[int], list[int]]:
    """The best epochs, best first, and the last ones, last first: so many of each, fewer at the beginning.

    rows: of metrics.csv, of a schedule those of the size that it has reached count; column: whose value makes the best
    (`layout.chosen_by`). An undefined one is the lowest.
    """
    rows = [row for row in rows if row.get("size") == rows[-1].get("size")]
    scores = {int(row["epoch"]): candidate(row, column)[0] for row in rows}
    ordered = sorted(scores, key=lambda epoch: (-scores[epoch] if scores[epoch] == scores[epoch] else 2.0, epoch))
    return ordered[:count], sorted(scores, reverse=True)[:count]


def sweep(run: Path, rows: Sequence[Mapping[str, Any]], column: str, count: int) -> None:
    """Delete the weights of epochs that are not kept."""
    if count:
        kept = {file_of(run, epoch) for each in best_and_last(rows, column, count) for epoch in each}
        for path in set((run / FOLDER).glob("*.safetensors")) - kept:
            path.unlink()
