"""Tables as plain data: values before rounding, and how each column is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxrdali.fitted import in_words
from cxrdali.report.kit.numbers import written


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


def without_one(caption: str, first: str, kind: str, rows: Sequence[tuple[str, float, Mapping | None]]) -> Table | None:
    """Whether one finding carries a mean. rows: name, value of all findings, and what the mean is without any one of
    them (`cxrdali.metrics.intervals.without_one`); those that have it are shown. kind: a format of these values."""
    columns = [(first, "text"), ("All findings", kind), ("Lowest", kind), ("without", "text")]
    columns += [("Highest", kind), ("without", "text")]
    ends = ("low", "low_without", "high", "high_without")
    cells = [(name, value, *(found[end] for end in ends)) for name, value, found in rows if found]
    return Table(caption, columns, cells) if cells else None


def with_fitted(columns: Sequence, rows: Sequence, results: Sequence[Mapping]) -> tuple[Sequence, Sequence]:
    """Columns and rows, with a last column for what was fitted on the images of the scores, if anything was. results:
    of each row, as `cxrdali.fitted.in_words` takes them."""
    words = [in_words(each) for each in results]
    if not any(words):
        return columns, rows
    return [*columns, ("Fitted on these images", "text")], [(*row, said) for row, said in zip(rows, words, strict=True)]
