"""A parquet table as text, so that one set of checks reads CSV and parquet alike: every value by its exact digits.

A float that is wide enough for its whole numbers reads as Python writes it ("10000032.0"); one that is not, such as
16777217 in 32 bits, reads with an exponent, which is what ids that have lost digits are refused by.
"""

import math
from collections.abc import Callable, Iterator
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds

from shards.storage.location import Location
from shards.storage.table_file import CELLS, MOST, too_large

ROWS = 2048  # read together: a value that is repeated takes its bytes in each
_EXACT = {16: 2**11, 32: 2**24}  # from here on a float of so many bits stands for several whole numbers


def bounded(path: Location, data: bytes) -> pa.Table:
    """A table as it is stored, with what its file says of itself; raises as `parquet_texts`."""
    file = pq.ParquetFile(pa.BufferReader(data))
    names = file.schema_arrow.names
    batches = [pa.RecordBatch.from_arrays(columns, names) for columns in _batches(path, file)]
    if not batches:
        return file.read()
    return pa.Table.from_batches(batches).replace_schema_metadata(file.schema_arrow.metadata)


def parquet_texts(path: Location, data: bytes | bytearray) -> tuple[pa.Table, dict[str, str]]:
    """The columns as strings, blank where there is no value, with an index that pandas has stored; and the columns that
    hold no single text or number, with their types.

    Raises UserError if it holds more than MOST bytes or CELLS values, pyarrow's errors if it is damaged.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    parts, texts = list(_batches(path, file)), []
    left_out: dict[str, str] = {}
    for place, field in enumerate(file.schema_arrow):
        kind = field.type.value_type if kinds.is_dictionary(field.type) else field.type
        try:
            text = _text(pa.chunked_array([part[place] for part in parts], kind))
            texts.append((field.name, pc.fill_null(text, "")))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            left_out[field.name] = f"holds {field.type}"
    return pa.table([text for _, text in texts], [name for name, _ in texts]), left_out


def _batches(path: Location, file: pq.ParquetFile) -> Iterator[list[pa.Array]]:
    """The columns of ROWS rows at a time. Raises UserError if there are more than MOST bytes or CELLS values."""
    rows, columns, held = file.metadata.num_rows, file.metadata.num_columns, 0
    if rows * columns > CELLS:
        raise too_large(path, f"holds {rows:,} rows of {columns:,} columns")
    for batch in file.iter_batches(ROWS):
        batch.validate(full=True)  # a text need not be UTF-8
        decoded = [_decoded(path, column) for column in batch.columns]
        held += sum(column.nbytes for column in decoded)
        if held > MOST:
            raise too_large(path, f"holds more than {MOST:,} bytes")
        yield decoded


def _decoded(path: Location, column: pa.Array) -> pa.Array:
    """Without a dictionary, whose values take their bytes in each row from then on."""
    if not kinds.is_dictionary(column.type):
        return column
    if kinds.is_string(column.type.value_type) or kinds.is_large_string(column.type.value_type):
        num_bytes = pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
        if num_bytes > MOST:
            raise too_large(path, f"holds {num_bytes:,} bytes")
    return column.dictionary_decode()


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Raises pyarrow's errors for a type that is no single text or number."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _text(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
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
