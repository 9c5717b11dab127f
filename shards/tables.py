"""Reading a release's CSV tables: everything as text, nothing guessed.

pandas' type guessing turns ids into floats and loses digits, and reads "NA" or "None" as missing; so every
column is read as text and converted by the functions below, which name file, column and value on failure.
"""

import csv
import gzip
import io
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from shards.errors import DataError
from shards.remote import is_remote, read_bytes

_WHOLE_FLOAT = re.compile(r"([0-9]+)\.0*")
_EXPONENT = re.compile(r"[+-]?([0-9]|[0-9]*\.[0-9]*)[eE][+-]?[0-9]+")  # "12e5" may be hexadecimal
_EXACT_FLOAT = 2**53  # from here on a float stands for several whole numbers
_UNNAMED = re.compile(r"Unnamed: [0-9]+")  # as pandas writes it
_FIRST = 2**17  # bytes of a table in a store that hold its first line, compressed or not
_NULLABLE = {"": pd.NA, "nan": pd.NA, "NaN": pd.NA, "NA": pd.NA, "null": pd.NA}
_FINDING_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, **_NULLABLE}


def read_table(path: Path, required: tuple[str, ...] = (), unnamed: bool = False) -> pd.DataFrame:
    """A CSV (plain or .gz, UTF-8 with or without BOM) as text columns; blanks are "".

    unnamed: accept several columns without a name, and call them as pandas does, "Unnamed: 3" (`is_unnamed`).
    Raises DataError if the file is absent, cut, not a table, has a row that does not fit the header, a column
    twice or a required one missing. (pandas would fill a short row with blanks and shift a long one.)
    """
    try:
        data = gzip.decompress(read_bytes(path)) if path.suffix == ".gz" else read_bytes(path)
        names, lines = _header(path, data, unnamed)
        # One block: Arrow loses a quoted newline that falls on the border of two. One thread: row numbers in errors.
        block = min(len(data) + 1, 2**31 - 1)
        table = pa_csv.read_csv(
            io.BytesIO(data),
            read_options=pa_csv.ReadOptions(column_names=names, skip_rows=lines, use_threads=False, block_size=block),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types={name: pa.string() for name in names}),
        ).to_pandas()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; download it from the release's page") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a CSV table in UTF-8 ({error}); download it again") from error
    except (pa.ArrowInvalid, csv.Error) as error:
        raise DataError(f"{path}: not a CSV table ({one_line(str(error))}); download it again") from error
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); download it again") from error
    missing = [column for column in required if column not in table.columns]
    if missing:
        found = one_line(", ".join(table.columns))
        raise DataError(f"{path}: column {missing[0]!r} is missing; found {found}")
    return table


def one_line(text: str) -> str:
    """For a message: Arrow quotes the offending row, whose values may hold newlines."""
    return " ".join(text.split())


def column_names(path: Path) -> list[str]:
    """The names in the first line of a CSV (plain or .gz), without reading the rest; [] if it is no text."""
    try:
        file = io.BytesIO(read_bytes(path, _FIRST)) if is_remote(path) else path.open("rb")
        with file, gzip.open(file) if path.suffix == ".gz" else file as plain:
            return [name.strip() for name in next(csv.reader(io.TextIOWrapper(plain, "utf-8-sig", newline="")), [])]
    except (UnicodeDecodeError, csv.Error, EOFError, OSError, zlib.error):
        return []


def is_unnamed(name: str) -> bool:
    """Whether a column has no name, here or in a table that pandas has saved again."""
    return not name or _UNNAMED.fullmatch(name) is not None


def _header(path: Path, data: bytes, unnamed: bool) -> tuple[list[str], int]:
    """The columns' names, and how many lines they fill (a quoted name may hold a newline)."""
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=""))
    names = [name.strip() for name in next(reader, [])]
    if unnamed:
        names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    if not names:
        raise DataError(f"{path}: not a CSV table (empty, not even a header); download it again")
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise DataError(f"{path}: column {doubled[0]!r} stands twice; rename or remove one of them")
    if data.count(b'"') % 2:  # Arrow takes the rest of the file for one value
        raise DataError(f"{path}: not a CSV table (a quote is never closed, the file may be cut); download it again")
    return names, reader.line_num


def ids(table: pd.DataFrame, column: str, path: Path, prefix: str = "") -> pd.Series:
    """An id column as text: "10000032", "10000032.0" and (with prefix "p") "p10000032" are the same id.

    Raises DataError on a blank ("nan", "NA" and "null" are blank too), and on floats that have lost digits:
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
            raise DataError(f"{path}: column {column!r} is blank in line {line}; every image needs one")
        if has_lost_digits(text):
            raise DataError(
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


def finding_values(table: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A finding's column as nullable Int8: 1 positive, 0 negative, -1 uncertain, missing for a blank."""
    unknown = set(table[column].unique()) - set(_FINDING_VALUES)
    if unknown:
        raise DataError(
            f"{path}: column {column!r} holds {sorted(unknown)[0]!r}; a finding is 1, 0, -1 or blank. "
            "If the column is no finding, remove it from the table"
        )
    codes, found = pd.factorize(table[column], use_na_sentinel=False)  # a map goes through every row in Python
    return pd.Series(pd.array([_FINDING_VALUES[value] for value in found], dtype="Int8").take(codes), table.index)
