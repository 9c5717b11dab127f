"""Tables as plain data: values before rounding, and how each column is written."""

from collections.abc import Sequence
from dataclasses import dataclass

from cxrdali.report.kit.numbers import unknown, written

FITTED = "Fitted on these images"  # title of a column of `cxrdali.fitted.in_words`


@dataclass(frozen=True)
class Table:
    """Numbers in rows; the first column names its row.

    columns: title and format (of `numbers.FORMATS`) of each. rows: their cells, before rounding; the last cell of a
    short row spans the columns that are left. best: (row, column) of the cells in bold. kind: "text" sets all left.
    """

    caption: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[object]]
    kind: str = ""
    best: Sequence[tuple[int, int]] = ()

    def texts(self) -> list[list[str]]:
        """The cells as they are written."""
        return [[written(cell, kind) for cell, (_, kind) in zip(row, self.columns, strict=False)] for row in self.rows]


def best(values: Sequence[float | None], highest: bool = True) -> list[int]:
    """Places of the best, compared before rounding; none where fewer than two are known."""
    known = [value for value in values if not unknown(value)]
    if len(known) < 2:
        return []
    top = max(known) if highest else min(known)
    return [place for place, value in enumerate(values) if value == top]
