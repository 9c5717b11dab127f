"""Reading a release's CSV tables: everything as text, nothing guessed.

pandas' type guessing turns ids into floats and loses digits, and reads "NA" or "None" as missing; so every
column is read as text and converted by the functions below, which name file, column and value on failure.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import UserError
from shards.storage.location import Location

_WHOLE_FLOAT = re.compile(r"([0-9]+)\.0*")
_EXPONENT = re.compile(r"[+-]?([0-9]|[0-9]*\.[0-9]*)[eE][+-]?[0-9]+")  # "12e5" may be hexadecimal
_EXACT_FLOAT = 2**53  # from here on a float stands for several whole numbers
_NULLABLE = {"": pd.NA, "nan": pd.NA, "NaN": pd.NA, "NA": pd.NA, "null": pd.NA}
_FINDING_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, **_NULLABLE}


def ids(table: pd.DataFrame, column: str, path: Location, prefix: str = "") -> pd.Series:
    """An id column as text: "10000032", "10000032.0" and (with prefix "p") "p10000032" are the same id.

    Raises UserError on a blank ("nan", "NA" and "null" are blank too), and on floats that have lost digits:
    exponents such as 1.0e7, and 9007199254740993.0 and above, which no float64 tells from its neighbours.
    """
    if pc.all(pc.match_substring_regex(pa.array(table[column]), "^[0-9]+$")).as_py():  # most columns of ids
        return table[column]
    clean = {}
    for value in table[column].unique():  # ids repeat: clean each once
        text = value.strip()
        if text.isascii() and text.isdigit():
            clean[value] = text
            continue
        if prefix and text[:1] == prefix and text[1:].isascii() and text[1:].isdigit():
            text = text[1:]
        if text in _NULLABLE:  # a study "nan" would join the images of all patients that have none
            line = int((table[column] == value).to_numpy().argmax()) + 2
            raise UserError(f"{path}: column {column!r} is blank in line {line}; every image needs one")
        if has_lost_digits(text):
            raise UserError(
                f"{path}: column {column!r} holds {value!r}, a number that has lost digits; "
                "use a copy of the table in which ids were kept as text"
            )
        whole = _WHOLE_FLOAT.fullmatch(text)
        clean[value] = whole.group(1) if whole else text
    return table[column].map(clean)


def rows_of(texts: pd.Series | pd.Index, among: pd.Series | pd.Index) -> np.ndarray:
    """int64 [texts]: where each text stands first in `among`; -1 if it does not.

    Arrow looks them up where they are. An index of pandas makes Python's objects of all texts and keeps them for as
    long as it lives, with a hash table; isin takes seconds.
    """
    texts, among = (pa.array(each, pa.large_string(), from_pandas=True) for each in (texts, among))
    return pc.index_in(texts, among).fill_null(-1).to_numpy().astype(np.int64)


def has_lost_digits(text: str) -> bool:
    """Whether an id was written as a float that stands for several whole numbers: 1.90E+38, or 2**53 and above."""
    whole = _WHOLE_FLOAT.fullmatch(text)
    return _EXPONENT.fullmatch(text) is not None or (whole is not None and float(text) >= _EXACT_FLOAT)


def finding_values(table: pd.DataFrame, column: str, path: Location) -> pd.Series:
    """A finding's column as nullable Int8: 1 positive, 0 negative, -1 uncertain, missing for a blank."""
    unknown = set(table[column].unique()) - set(_FINDING_VALUES)
    if unknown:
        raise UserError(
            f"{path}: column {column!r} holds {sorted(unknown)[0]!r}; a finding is 1, 0, -1 or blank. "
            "If the column is no finding, remove it from the table"
        )
    codes, found = pd.factorize(table[column], use_na_sentinel=False)  # a map goes through every row in Python
    return pd.Series(pd.array([_FINDING_VALUES[value] for value in found], dtype="Int8").take(codes), table.index)


SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "development": "dev",
    "validate": "dev",
    "validation": "dev",
    "val": "dev",
    "test": "test",
}


def splits(column: pd.Series, path: Location, name: str = "split") -> pd.Series:
    """A released split column in this project's words: train, dev (validate, development) and test."""
    unknown = set(column.unique()) - set(SPLIT_NAMES)
    if unknown:
        raise UserError(f"{path}: column {name!r} holds {sorted(unknown)[0]!r}; known are {', '.join(SPLIT_NAMES)}")
    return column.map(SPLIT_NAMES)


def finding_table(table: pd.DataFrame, findings: Sequence[str], path: Location, index: pd.Index) -> pd.DataFrame:
    """The `finding_values` of several columns, by `index`."""
    values = pd.DataFrame({finding: finding_values(table, finding, path) for finding in findings}, index=table.index)
    return values.set_axis(index)


def image_index(image: pd.Series, path: Location) -> pd.Index:
    """Ids of images as an index. Raises UserError if one is there twice."""
    index = pd.Index(image, name="image_id")
    check_index(index, path, "image")
    return index


def check_filled(table: pd.DataFrame, path: Location) -> None:
    if not len(table):
        raise UserError(f"{path}: a header and no image; download it again")


def check_index(index: pd.Index, path: Location, column: str) -> None:
    """Raises UserError if a name occurs twice: a second one would silently replace the first."""
    doubled = index.duplicated()  # has_duplicates would keep a hash table with the index, twice as large as its texts
    if doubled.any():
        first = index[doubled][0]
        raise UserError(f"{path}: {column} {first!r} stands in more than one row; keep one of them")
