"""A JSON text as a table of texts: a list of objects, an object in each line, or a mapping of keys to objects."""

import json
from functools import partial
from typing import Any

import pyarrow as pa

from shards.storage.location import Location
from shards.storage.sealed import no_name_twice
from shards.storage.table_file import CELLS, too_large

KEY = "key"  # the column of a mapping's keys
MOST = 2**29  # bytes: as Python's objects, a text takes a few times as much

# numbers as they are written, with all digits
_decode = partial(
    json.loads, object_pairs_hook=no_name_twice, parse_int=str, parse_float=str, parse_constant=lambda _: ""
)


def json_table(path: Location, data: bytes | bytearray) -> pa.Table:
    """The objects as rows of strings; a list or an object in one is its JSON, true is 1, null is blank.

    Raises ValueError for what is no such table, UserError if it is too large.
    """
    if len(data) > MOST:
        raise too_large(path, f"it has {len(data):,} bytes, and JSON may have {MOST:,}")
    try:
        rows = _rows(data.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) * len(rows) > CELLS:
        raise too_large(path, f"holds {len(rows):,} objects of {len(names):,} names")
    return pa.table({name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names})


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        found = _decode(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        found = [_line(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if isinstance(found, dict):
        keyed = found and all(isinstance(each, dict) and KEY not in each for each in found.values())
        found = [{KEY: key, **each} for key, each in found.items()] if keyed else [found]
    if other := next((place for place, each in enumerate(found, 1) if not isinstance(each, dict)), None):
        raise ValueError(f"entry {other} is no object")
    return found


def _line(text: str, number: int) -> Any:
    try:
        return _decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {number}, column {error.colno}") from error


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return "" if value is None else str(int(value))
    return json.dumps(value, ensure_ascii=False)
