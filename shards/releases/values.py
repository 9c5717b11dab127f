"""Reading a release's CSV tables: everything as text, nothing guessed.

pandas' type guessing turns ids into floats and loses digits, and reads "NA" or "None" as missing; so every
column is read as text and converted by the functions below, which name file, column and value on failure.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import UserError
from shards.releases.ids import line_of
from shards.storage.location import Location

# as pandas, R, SQL and spreadsheets write them
BLANK_WORDS = ("", "nan", "na", "null", "<na>", "none", "n/a", "#n/a")
_NO_WORDS: Mapping[str, int | str] = {}


def rows_of(texts: pd.Series | pd.Index, among: pd.Series | pd.Index) -> np.ndarray:
    """int64 [texts]: where each text stands first in `among`; -1 if it does not.

    Arrow looks them up where they are. An index of pandas makes Python's objects of all texts and keeps them for as
    long as it lives, with a hash table; isin takes seconds.
    """
    texts, among = (pa.array(each, pa.large_string(), from_pandas=True) for each in (texts, among))
    return pc.index_in(texts, among).fill_null(-1).to_numpy().astype(np.int64)


def finding_values(
    table: pd.DataFrame, column: str, path: Location, words: Mapping[str, int | str] = _NO_WORDS
) -> pd.Series:
    """A finding's column as nullable Int8: 1 positive, 0 negative, -1 uncertain, missing for a blank.

    Blanks around a value and zeros after its point do not count. words: what else means what, in any case; "" is a
    blank. Raises UserError on any other value.
    """
    codes, found = pd.factorize(table[column], use_na_sentinel=False)  # a map goes through every row in Python
    folded = {word.strip().casefold(): pd.NA if value == "" else value for word, value in words.items()}
    values = [folded.get(value.strip().casefold(), _finding(value)) for value in found]
    if any(value is None for value in values):
        value = min(value for value, number in zip(found, values, strict=True) if number is None)
        fix = "If the column is no finding, remove it from the table"
        if words:  # of a declaration
            fix = "Say with `words` what else means what, or name the findings without this column"
        raise UserError(
            f"{path}: column {column!r} holds {value!r}; a finding is 1, 0, -1 or blank{_advice(value.strip())}. {fix}"
        )
    return pd.Series(pd.array(values, dtype="Int8").take(codes), table.index)


def _finding(value: str) -> object:
    """1, 0, -1 or NA; None for a text that is none of them."""
    text = value.strip()
    if text.lower() in BLANK_WORDS:
        return pd.NA
    if not re.fullmatch(r"[+-]?[0-9]*\.?0*", text, re.ASCII) or not re.search("[0-9]", text):
        return None
    number = float(text)
    return int(number) if number in (1, 0, -1) else None


def _advice(text: str) -> str:
    """What to write instead."""
    if re.fullmatch("(?i)true|false|yes|no|y|n|t|f|pos|neg|positive|negative|present|absent", text):
        return " (write 1 for yes and 0 for no)"
    if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", text):
        return " (write the decimal comma as a point)"
    if re.fullmatch(r"0?\.[0-9]+(?:[eE]-?[0-9]+)?|[0-9](?:\.[0-9]+)?[eE]-[0-9]+", text):
        return " (for a probability, write 1 from the threshold of your choice on and 0 below it)"
    return ""


SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "development", "validate", "validation", "valid", "val"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def splits(column: pd.Series, path: Location, name: str = "split") -> pd.Series:
    """A split column in this project's words: train, dev (validate, development) and test, in upper or lower case.

    Raises UserError on any other word, and on a blank.
    """
    known = {word: SPLIT_NAMES.get(word.strip().lower()) for word in column.unique()}
    unknown = sorted(word for word, split in known.items() if split is None)
    if unknown:
        where = line_of(path, column, int((column == unknown[0]).to_numpy().argmax()))
        raise UserError(
            f"{path}: column {name!r} holds {unknown[0]!r}; known are {', '.join(SPLIT_NAMES)} (first in {where})"
        )
    return column.map(known)


def finding_table(table: pd.DataFrame, findings: Sequence[str], path: Location, index: pd.Index) -> pd.DataFrame:
    """The `finding_values` of several columns, by `index`."""
    values = pd.DataFrame({finding: finding_values(table, finding, path) for finding in findings}, index=table.index)
    return values.set_axis(index)


def image_index(image: pd.Series, path: Location) -> pd.Index:
    """Ids of images as an index. Raises UserError if one is there twice."""
    index = pd.Index(image, name="image_id")
    check_index(index, path, "image")
    return index


def check_filled(table: pd.DataFrame, path: Location | str) -> None:
    if not len(table):
        raise UserError(f"{path}: a header and no image; download it again")


def check_index(index: pd.Index, path: Location, column: str) -> None:
    """Raises UserError if a name occurs twice: a second one would silently replace the first."""
    doubled = index.duplicated()  # has_duplicates would keep a hash table with the index, twice as large as its texts
    if doubled.any():
        first = index[doubled][0]
        raise UserError(f"{path}: {column} {first!r} is in more than one row; keep one of them")
