"""Text tables, read strictly."""

import csv
import gzip
import io
import re
import zlib

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from shards.errors import UserError
from shards.storage.location import Location
from shards.storage.places import storage_of

FIRST = 2**17  # bytes of a table that hold its first line, compressed or not
_UNNAMED = re.compile(r"Unnamed: [0-9]+")  # as pandas writes it


def read_table(path: Location, required: tuple[str, ...] = (), unnamed: bool = False) -> pd.DataFrame:
    """A CSV (plain or .gz, UTF-8 with or without BOM) as text columns; blanks are "".

    unnamed: accept several columns without a name, and call them as pandas does, "Unnamed: 3" (`is_unnamed`).
    Raises UserError if the file is absent, cut, not a table, has a row that does not fit the header, a duplicated
    column or without a required one. (pandas would fill a short row with blanks and shift a long one.)
    """
    try:
        data = storage_of(path).read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
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
        raise UserError(f"{path}: no such file; download it from the release's page") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a CSV table in UTF-8 ({error}); download it again") from error
    except (pa.ArrowInvalid, csv.Error) as error:
        raise UserError(f"{path}: not a CSV table ({one_line(str(error))}); download it again") from error
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); download it again") from error
    missing = [column for column in required if column not in table.columns]
    if missing:
        found = one_line(", ".join(table.columns))
        raise UserError(f"{path}: column {missing[0]!r} is missing; found {found}")
    return table


def one_line(text: str) -> str:
    """For a message: Arrow quotes the offending row, whose values may hold newlines."""
    return " ".join(text.split())


def column_names(path: Location) -> list[str]:
    """The names in the first line of a CSV (plain or .gz), without reading the rest; [] if it is no text."""
    try:
        file = io.BytesIO(storage_of(path).read_bytes(stop=FIRST))
        with gzip.open(file) if path.suffix == ".gz" else file as plain:
            return [name.strip() for name in next(csv.reader(io.TextIOWrapper(plain, "utf-8-sig", newline="")), [])]
    except (UnicodeDecodeError, csv.Error, EOFError, OSError, zlib.error):
        return []


def is_unnamed(name: str) -> bool:
    """Whether a column has no name, here or in a table that pandas has saved again."""
    return not name or _UNNAMED.fullmatch(name) is not None


def _header(path: Location, data: bytes, unnamed: bool) -> tuple[list[str], int]:
    """The columns' names, and how many lines they fill (a quoted name may hold a newline)."""
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=""))
    names = [name.strip() for name in next(reader, [])]
    if unnamed:
        names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    if not names:
        raise UserError(f"{path}: not a CSV table (empty, not even a header); download it again")
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise UserError(f"{path}: column {doubled[0]!r} is duplicated; rename or remove one of them")
    if data.count(b'"') % 2:  # Arrow takes the rest of the file for one value
        raise UserError(f"{path}: not a CSV table (a quote is never closed, the file may be cut); download it again")
    return names, reader.line_num
