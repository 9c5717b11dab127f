"""Sex, age, race and year as the tables and headers of releases write them."""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from shards.words import are, counted

SEXES = {**dict.fromkeys(("f", "female"), "F"), **dict.fromkeys(("m", "male"), "M")}
OLDEST = 120  # years
FIRST, LAST = 1895, 2100  # years of studies: of Röntgen's first one, and no shifted one as MIMIC's
# races by how a table's text begins, as MIMIC-IV, CheXpert and DICOM have them; what is none of these is not known.
# Groups as in Seyyed-Kalantari et al. 2021, who have one for all that are smaller.
RACES = {
    "white": "White", "black": "Black", "african": "Black", "asian": "Asian", "hispanic": "Hispanic",
    "latin": "Hispanic", "american indian": "Native American", "native american": "Native American",
    "native hawaiian": "Pacific Islander", "pacific islander": "Pacific Islander", "other": "Other",
    "multiple": "Other", "multiracial": "Other", "portuguese": "Other", "south american": "Other",
}  # fmt: skip
_NO_RACE = re.compile("unknown|race and ethnicity unknown|unable to obtain|patient declined.*|declined.*|refused|")
_UNITS = {"y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}  # as DICOM's PatientAge has them
_AGE = re.compile(r"([0-9]{1,3}(?:[.,][0-9]+)?) ?([ymwd]|yrs?|years?)?")
_BIN = re.compile(r"([0-9]{1,3}) ?(?:-|to|–) ?[0-9]{1,3}|(?:[>≥]=? ?)?([0-9]{1,3}) ?(?:\+|or more|or older|and over|$)")


def sexes(column: pd.Series, unit: str = "image") -> tuple[pd.Series, tuple[str, ...]]:
    """F, M or blank; and, for the user, what else the column holds. unit: what has a row, as of all these."""
    return _each(column, lambda text: SEXES.get(text, ""), "sex", unit)


def ages(column: pd.Series, unit: str = "image") -> tuple[pd.Series, tuple[str, ...]]:
    """Years as text, or blank: of 045Y 45, of 18M 1.5, of a bin as 75-80, 85+ or "85 or more" its lower bound.

    Returns also what is to be said: of bins, and of what is no age from 0 to OLDEST years.
    """
    found, notes = _each(column, _years, "age", unit)
    kinds = [text for text in column.unique() if not _AGE.fullmatch(text.strip().lower())]
    bins = column.isin(kinds) & (found != "")
    if bins.any():
        notes += (f"{are(bins.sum(), 'age')} given as a bin, as {column[bins].iloc[0]!r}: its lower bound is taken",)
    return found, notes


def races(column: pd.Series, unit: str = "image") -> tuple[pd.Series, tuple[str, ...]]:
    """One of the values of RACES, or blank: no free text is kept."""
    return _each(column.where(~column.str.strip().str.lower().str.fullmatch(_NO_RACE), ""), _race, "race", unit)


def years(column: pd.Series, unit: str = "image") -> tuple[pd.Series, tuple[str, ...]]:
    """The year alone of 2014, 20140523, 2014-05-23 or 2014/05/23, or blank."""
    return _each(column, _year, "year", unit)


def words(column: pd.Series, unit: str = "image") -> tuple[pd.Series, tuple[str, ...]]:
    """A machine's make or model, with single blanks."""
    return column.map(lambda text: " ".join(text.split())), ()


def _race(text: str) -> str:
    return next((race for start, race in RACES.items() if text.startswith(start)), "")


def _year(text: str) -> str:
    found = re.fullmatch(r"([0-9]{4})(?:\.0)?|([0-9]{4})([-/.]?)[0-9]{2}\3[0-9]{2}(?:[t ].*)?", text)
    year = found and (found[1] or found[2])
    return year if year and FIRST <= int(year) <= LAST else ""


# what tables call a column, in lower case and without what is no letter
COLUMNS = {
    **dict.fromkeys(("sex", "gender", "patientsex", "patientgender", "patientsexdicom"), "sex"),
    **dict.fromkeys(("age", "patientage"), "age"),
    **dict.fromkeys(("race", "primaryrace"), "race"),
    **dict.fromkeys(("manufacturer", "manufacturerdicom"), "manufacturer"),
    **dict.fromkeys(("model", "manufacturermodelname", "manufacturermodelnamedicom"), "model"),
    **dict.fromkeys(("year", "studyyear", "studydate", "studydatedicom"), "year"),
}
PEOPLE: dict[str, Callable[..., tuple[pd.Series, tuple[str, ...]]]] = {
    "sex": sexes, "age": ages, "race": races, "manufacturer": words, "model": words, "year": years,
}  # fmt: skip


def people_columns(names: Iterable[str], known: Mapping[str, str] = COLUMNS) -> dict[str, list[str]]:
    """By what it says (sex, age, ...), the columns of a table that say it, by their names."""
    found: dict[str, list[str]] = {}
    for name in names:
        if what := known.get(re.sub("[^a-z]", "", name.casefold())):
            found.setdefault(what, []).append(name)
    return found


def people_of(table: pd.DataFrame, unit: str = "image") -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The people of a table of texts, by the first column that says it: text, "" where it is not known; and notes.

    unit: what a row of the table is.
    """
    made: dict[str, pd.Series] = {}
    notes: list[str] = []
    for what, (name, *_) in people_columns(table.columns).items():
        made[what], said = PEOPLE[what](table[name].str.strip(), unit)
        notes += said
    return pd.DataFrame(made, index=table.index), tuple(notes)


def _years(text: str) -> str:
    if found := _AGE.fullmatch(text):
        years = float(found[1].replace(",", ".")) * _UNITS[(found[2] or "y")[0]]
    elif found := _BIN.fullmatch(text):
        years = float(found[1] or found[2])
    else:
        return ""
    return f"{years:.6g}" if years <= OLDEST else ""


def _each(column: pd.Series, made: Callable[[str], str], what: str, unit: str) -> tuple[pd.Series, tuple[str, ...]]:
    codes, found = pd.factorize(column)
    texts = [str(text).strip() for text in found]
    new = [made(text.lower()) for text in texts]
    counts = np.bincount(codes, minlength=len(texts))
    odd = {repr(text): int(n) for text, value, n in zip(texts, new, counts, strict=True) if text and not value}
    first = ", ".join(f"{text} ({count:,})" for text, count in sorted(odd.items(), key=lambda item: -item[1])[:5])
    values = pd.Series(np.array([*new, ""], dtype=object)[codes], column.index, dtype="str")
    return values, (f"{what} is not known of {counted(sum(odd.values()), unit)}: {first}",) if odd else ()
