"""Tables as plain data: values before rounding, and how each column is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxrdali.fitted import in_words
from cxrdali.report.kit.numbers import unknown, written


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


def with_fitted(columns: Sequence, rows: Sequence, results: Sequence[Mapping]) -> tuple[Sequence, Sequence]:
    """Columns and rows, with a last column for what was fitted on the images of the scores, if anything was. results:
    of each row, as `cxrdali.fitted.in_words` takes them."""
    words = [in_words(each) for each in results]
    if not any(words):
        return columns, rows
    return [*columns, ("Fitted on these images", "text")], [(*row, said) for row, said in zip(rows, words, strict=True)]


def best(values: Sequence[float | None], highest: bool = True) -> list[int]:
    """Places of the best, compared before rounding; none where fewer than two are known."""
    known = [value for value in values if not unknown(value)]
    if len(known) < 2:
        return []
    top = max(known) if highest else min(known)
    return [place for place, value in enumerate(values) if value == top]
