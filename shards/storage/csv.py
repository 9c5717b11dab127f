"""Tables, read strictly and as text: CSV in its usual spellings, and parquet."""

import csv
import difflib
import io
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from shards.errors import UserError
from shards.storage.json_table import json_table
from shards.storage.location import Location
from shards.storage.parquet import parquet_texts
from shards.storage.table_file import (
    CELLS,
    DOWNLOAD,
    MOST,
    PARQUET,
    is_json,
    packing,
    table_bytes,
    text_start,
    too_large,
)

FIRST = 2**17  # bytes of a table that hold its first line, compressed or not
HEADER = 2**22  # most bytes of a first line
CELL = 2**20  # most bytes of a value: more is a quote that is not closed, or an attack
SHOWN = 30  # columns that a message lists
LEFT_OUT = "left out"  # in a table's attrs: columns of parquet that hold no single text or number, and their types
GUESSED = "guessed"  # in a table's attrs: the encoding that its bytes do not tell
NAMES = "names"  # in a table's attrs: of all its columns

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
_UNNAMED = re.compile(r"Unnamed: [0-9]+|__index_level_[0-9]+__")  # as pandas writes it
_QUOTED = re.compile(r'"[^"]*("|$)')  # the name may go on in the next line
_DECIMAL_COMMA = r"^(\s*[+-]?[0-9]+),(0+\s*|[0-9]*[eE][+-]?[0-9]+\s*)$"


def read_table(
    path: Location,
    required: tuple[str, ...] = (),
    unnamed: bool = False,
    again: str = DOWNLOAD,
    declared: bool = False,
    only: Collection[str] | None = None,
) -> pd.DataFrame:
    """A table as text columns; blanks are "".

    A CSV is in UTF-8 (or UTF-16 with a byte order mark), its separator a comma, or the one of semicolon, tab and | that
    alone is in its first line. Both it and parquet are detected by content, plain or packed (`table_bytes`).

    unnamed: accept several columns without a name, and call them as pandas does, "Unnamed: 3" (`is_unnamed`).
    again: how to fix a damaged file, for messages: SAVE for a table of the user's own.
    declared: read JSON too (`shards.storage.json_table`), and text that is no UTF-8 as Windows-1252; then that is in
    the table's attrs as GUESSED.
    only: leave out the other columns, which take no memory then. All names are in the table's attrs as NAMES.
    Raises UserError if the file is absent, cut, not a table, has a row that does not fit the header, a duplicated
    column or without a required one. (pandas would fill a short row with blanks and shift a long one.)
    """
    data = table_bytes(path, again, json=declared)
    left_out: dict[str, str] = {}
    guessed = False
    try:
        if data[:4] == PARQUET:
            table, left_out = parquet_texts(path, data)
            names = _checked_names(path, table.column_names, unnamed, again)
            table = table.rename_columns(names)
        else:
            try:
                table, names = _text_table(path, data, unnamed, again, only)
            except UnicodeDecodeError:
                if not (guessed := declared):
                    raise
                table, names = _text_table(path, bytes(data).decode("cp1252").encode(), unnamed, again, only)
    except UserError:
        raise
    except Exception as error:  # Arrow raises many kinds on damaged parquet
        what = "a readable table" if data[:4] == PARQUET else "JSON of objects" if is_json(data) else "a CSV table"
        why = one_line(str(error))[:500]
        if isinstance(error, UnicodeDecodeError) and what == "a CSV table":
            what, why = "a CSV table in UTF-8", _place(data, error.start)
        raise UserError(f"{path}: not {what} ({why}); {again}") from error
    frame = table.to_pandas()
    frame.attrs |= {LEFT_OUT: left_out, NAMES: names}
    if guessed:
        frame.attrs[GUESSED] = "Windows-1252"
    for column in required:
        if column not in frame.columns:
            raise no_column(path, column, frame)
    return frame


def no_column(path: Location, column: str, table: pd.DataFrame, option: str = "") -> UserError:
    """That a table lacks a column, which one is near, and what it has; `option` named it."""
    named = f"{path}: column {column!r}{option and f' ({option})'}"
    if column in table.attrs.get(LEFT_OUT, ()):
        return UserError(f"{named} {table.attrs[LEFT_OUT][column]}; give a column of single texts or numbers")
    names = list(table.columns)
    alike = [name for name in names if _letters(name) == _letters(column)]
    alike = alike or difflib.get_close_matches(column, names[:10_000], 1, 0.8)
    near = f"; near it is {ascii(alike[0])}" if alike else ""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return UserError(f"{named} is missing; found {one_line(', '.join(names[:SHOWN]))[:2000]}{more}{near}")


def one_line(text: str) -> str:
    """For a message: Arrow quotes the offending row, whose values may hold newlines."""
    return " ".join(text.split())


def column_names(path: Location) -> list[str]:
    """The names in the first line of a CSV (plain or .gz), without reading the rest; [] if it is no text."""
    return _start(path)[0]


def how_written(path: Location) -> str:
    """How a table's file is packed and separated, for people."""
    names, separator = _start(path)
    return f"{packing(path)}separated by {SEPARATORS[separator]}" if names else f"{packing(path)}JSON or parquet"


def _start(path: Location) -> tuple[list[str], str]:
    try:
        start = text_start(path, FIRST)
        try:
            names, _, separator = _first_line(start)
        except UnicodeDecodeError:
            names, _, separator = _first_line(start.decode("cp1252").encode())
        return ([], "") if is_json(start) else (names, separator)
    except (UnicodeDecodeError, csv.Error, EOFError, OSError, zlib.error, UserError, pa.ArrowException):
        return [], ""


def is_unnamed(name: str) -> bool:
    """Whether a column has no name, here or in a table that pandas has saved again."""
    return not name or _UNNAMED.fullmatch(name) is not None


def _text_table(
    path: Location, data: bytes | bytearray, unnamed: bool, again: str, only: Collection[str] | None
) -> tuple[pa.Table, list[str]]:
    """The columns that are asked for, and the names of all."""
    if is_json(data):  # that was let pass
        table = json_table(path, data)
        names = _checked_names(path, table.column_names, unnamed, again)
        return table.rename_columns(names), names
    if (zero := data.find(b"\0")) >= 0:  # what a file system leaves after a crash
        raise UserError(f"{path}: not a CSV table ({_place(data, zero)}); {again}")
    if len(data) > HEADER and not re.search(rb"[\r\n]", data[:HEADER]):
        raise UserError(f"{path}: not a CSV table (its first line has more than {HEADER:,} bytes); {again}")
    found, lines, separator = _first_line(data[:HEADER])
    names = _checked_names(path, found, unnamed, again)
    if data.count(b'"') % 2:  # Arrow takes the rest of the file for one value
        raise UserError(f"{path}: not a CSV table (a quote is never closed, the file may be cut); {again}")
    if (cells := data.count(separator.encode())) > CELLS:
        raise too_large(path, f"holds more than {cells:,} values")
    # One block: Arrow loses a quoted newline that falls on the border of two. One thread: row numbers in errors.
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(data),
            read_options=pa_csv.ReadOptions(
                column_names=names, skip_rows=lines, use_threads=False, block_size=min(len(data) + 1, MOST)
            ),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, delimiter=separator),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                include_columns=names if only is None else [name for name in names if name in only],  # none: all
            ),
        )
    except pa.ArrowInvalid:
        data.decode()  # Arrow does not say where it is no UTF-8
        raise
    for name, column in zip(table.column_names, table.columns, strict=True):
        if (pc.max(pc.binary_length(column)).as_py() or 0) > CELL:
            raise UserError(f"{path}: column {name!r} has a value of more than {CELL:,} bytes; is a quote not closed?")
    if separator == ",":
        return table, names
    texts = [pc.replace_substring_regex(column, _DECIMAL_COMMA, r"\1.\2") for column in table.columns]
    return pa.table(texts, table.column_names), names


def _first_line(data: bytes | bytearray) -> tuple[list[str], int, str]:
    """The names in the first line, how many lines they fill (a quoted name may hold a newline), and the separator."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    plain = _QUOTED.sub("", text.readline())
    others = [each for each in ";\t|" if each in plain]
    separator = others[0] if len(others) == 1 and "," not in plain else ","
    text.seek(0)
    reader = csv.reader(text, delimiter=separator)
    return [name.strip() for name in next(reader, [])], reader.line_num, separator


def _checked_names(path: Location, names: Sequence[str], unnamed: bool, again: str) -> list[str]:
    names = [name.strip() for name in names]
    if unnamed:
        names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    if not names:
        raise UserError(f"{path}: not a CSV table (empty, not even a header); {again}")
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"{path}: column {name!r} is duplicated; rename or remove one of them")
    seen: dict[str, str] = {}
    for name in names:
        if (before := seen.setdefault(_visible(name), name)) != name:
            raise UserError(
                f"{path}: columns {ascii(before)} and {ascii(name)} differ in what nobody sees; rename or remove one"
            )
    return names


def _visible(name: str) -> str:
    """A name without what nobody sees: invisible characters, kinds of blanks, ways to write an accent."""
    if name.isascii():
        return name
    return " ".join("".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf").split())


def _letters(name: str) -> str:
    return _visible(name).casefold().replace(" ", "")


def _place(data: bytes | bytearray, at: int) -> str:
    """A byte that does not belong there, and its line."""
    value = data[at : at + 1]
    what = f" (in Windows-1252 {value.decode('cp1252', 'replace')!r})" if value > b"\x7f" else ""
    return f"the byte 0x{value.hex()}{what} in line {data.count(10, 0, at) + 1:,}"
