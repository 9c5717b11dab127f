"""CSV files that people open: a text that a spreadsheet would run as a formula has an apostrophe in front of it, which
our own readers take off. Tables that other programs read by exact values are written without."""

import re
from collections.abc import Iterable

_FORMULA = re.compile(r"'*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")  # the last four are the wide forms of the first


def guarded(value: object) -> object:
    """A cell for people. Numbers stay numbers; an apostrophe that is there already is guarded too."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def guarded_rows(rows: Iterable[dict]) -> list[dict]:
    return [{name: guarded(value) for name, value in row.items()} for row in rows]


def unguarded(text: str) -> str:
    """The text that `guarded` wrote."""
    return text[1:] if text[:1] == "'" and _FORMULA.match(text) else text
