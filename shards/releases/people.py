"""Sex and age as the tables and headers of releases write them."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from shards.words import are, counted

SEXES = {**dict.fromkeys(("f", "female"), "F"), **dict.fromkeys(("m", "male"), "M")}
OLDEST = 120  # years
_UNITS = {"y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}  # as DICOM's PatientAge has them
_AGE = re.compile(r"([0-9]{1,3}(?:[.,][0-9]+)?) ?([ymwd]|yrs?|years?)?")
_BIN = re.compile(r"([0-9]{1,3}) ?(?:-|to|–) ?[0-9]{1,3}|(?:[>≥]=? ?)?([0-9]{1,3}) ?(?:\+|or more|or older|and over|$)")


def sexes(column: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """F, M or blank; and, for the user, what else the column holds."""
    return _each(column, lambda text: SEXES.get(text, ""), "sex")


def ages(column: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """Years as text, or blank: of 045Y 45, of 18M 1.5, of a bin as 75-80, 85+ or "85 or more" its lower bound.

    Returns also what is to be said: of bins, and of what is no age from 0 to OLDEST years.
    """
    found, notes = _each(column, _years, "age")
    kinds = [text for text in column.unique() if not _AGE.fullmatch(text.strip().lower())]
    bins = column.isin(kinds) & (found != "")
    if bins.any():
        notes += (f"{are(bins.sum(), 'age')} given as a bin, as {column[bins].iloc[0]!r}: its lower bound is taken",)
    return found, notes


def _years(text: str) -> str:
    if found := _AGE.fullmatch(text):
        years = float(found[1].replace(",", ".")) * _UNITS[(found[2] or "y")[0]]
    elif found := _BIN.fullmatch(text):
        years = float(found[1] or found[2])
    else:
        return ""
    return f"{years:.6g}" if years <= OLDEST else ""


def _each(column: pd.Series, made: Callable[[str], str], what: str) -> tuple[pd.Series, tuple[str, ...]]:
    codes, found = pd.factorize(column)
    texts = [str(text).strip() for text in found]
    new = [made(text.lower()) for text in texts]
    counts = np.bincount(codes, minlength=len(texts))
    odd = {repr(text): int(n) for text, value, n in zip(texts, new, counts, strict=True) if text and not value}
    first = ", ".join(f"{text} ({count:,})" for text, count in sorted(odd.items(), key=lambda item: -item[1])[:5])
    values = pd.Series(np.array([*new, ""], dtype=object)[codes], column.index, dtype="str")
    return values, (f"{what} is not known of {counted(sum(odd.values()), 'image')}: {first}",) if odd else ()
