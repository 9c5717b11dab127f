"""A parquet table as text, so that one set of checks reads CSV and parquet alike: every value by its exact digits.

A float that is wide enough for its whole numbers reads as Python writes it ("10000032.0"); one that is not, such as
16777217 in 32 bits, reads with an exponent, which is what ids that have lost digits are refused by.
"""

import math
from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds

from shards.errors import UserError
from shards.storage.location import Location

ROWS = 4096  # read together: a value that is repeated takes its bytes in each
CELLS = 2**30
_EXACT = {16: 2**11, 32: 2**24}  # from here on a float of so many bits stands for several whole numbers


def parquet_texts(path: Location, data: bytes | bytearray, most: int) -> tuple[pa.Table, dict[str, str]]:
    """The columns as strings, blank where there is no value, with an index that pandas has stored; and the columns that
    hold no single text or number, with their types.

    Raises UserError if it holds more than `most` bytes.  Raises pyarrow's errors if it is damaged.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    found = file.metadata
    num_bytes = sum(max(0, found.row_group(group).total_byte_size) for group in range(found.num_row_groups))
    if num_bytes > most or found.num_rows * found.num_columns > CELLS:
        raise _too_large(path, f"{num_bytes:,} bytes, {found.num_rows:,} rows and {found.num_columns:,} columns")
    parts, texts, held = [], [], 0
    left_out: dict[str, str] = {}
    for part in file.iter_batches(ROWS):
        part.validate(full=True)  # a text need not be UTF-8
        held += part.nbytes
        if held > most:
            raise _too_large(path, f"more than {most:,} bytes")
        parts.append(part)
    table = pa.Table.from_batches(parts, file.schema_arrow)
    for field, column in zip(table.schema, table.columns, strict=True):
        try:
            texts.append(pc.fill_null(_text(column), ""))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            left_out[field.name] = f"holds {field.type}"
            texts.append(None)
    kept = [place for place, text in enumerate(texts) if text is not None]
    return pa.table([texts[place] for place in kept], [table.column_names[place] for place in kept]), left_out


def _too_large(path: Location, what: str) -> UserError:
    return UserError(f"{path}: holds {what}, too much for a table; leave only the columns that are needed")


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Raises pyarrow's errors for a type that is no single text or number."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _text(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if kinds.is_dictionary(kind):
        return _text(column.cast(kind.value_type))
    if kinds.is_boolean(kind):
        return column.cast(pa.int8()).cast(pa.string())
    if kinds.is_fixed_size_binary(kind):
        return column.cast(pa.binary()).cast(pa.string())
    if kinds.is_decimal(kind):
        return _each(column, _decimal_text)
    if kinds.is_floating(kind):
        return _each(column.cast(pa.float64()), _float_text(kind.bit_width))
    if kinds.is_nested(kind):
        raise pa.ArrowNotImplementedError(str(kind))
    return column.cast(pa.string())


def _each(column: pa.ChunkedArray, text: Callable) -> pa.ChunkedArray:
    """Every different value once, in Python."""
    codes = column.combine_chunks().dictionary_encode()
    if isinstance(codes, pa.ChunkedArray):
        codes = codes.combine_chunks()
    texts = pa.array([text(value) for value in codes.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([texts.take(codes.indices)])


def _decimal_text(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _float_text(bits: int) -> Callable[[float], str]:
    exact = _EXACT.get(bits, math.inf)

    def text(value: float) -> str:
        if math.isnan(value):
            return ""
        if exact <= abs(value) < math.inf:
            return f"{value:.9e}"
        return repr(value + 0.0)  # no -0.0

    return text
