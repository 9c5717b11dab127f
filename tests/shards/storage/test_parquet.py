"""Parquet as pandas, Spark, R and polars write it: every value by its exact digits, or refused by the column's name."""

import datetime
import decimal
import io
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import UserError
from shards.releases.ids import ids
from shards.storage import parquet
from shards.storage.csv import is_unnamed, no_column, read_table
from shards.storage.table_file import SAVE

DAY = datetime.datetime(2020, 1, 2, 3, 4, 5)


def written(path, table):
    table.to_parquet(path) if isinstance(table, pd.DataFrame) else pq.write_table(table, path)
    return read_table(path, unnamed=True, again=SAVE)


def texts(path, values, kind=None) -> list[str]:
    return written(path, pa.table({"id": pa.array(values, kind)}))["id"].tolist()


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("sign", ["int", "uint"])
def test_whole_numbers_keep_every_digit(tmp_path, bits, sign):
    kind = getattr(pa, f"{sign}{bits}")()
    ends = np.iinfo(f"{sign}{bits}")
    assert texts(tmp_path / "t", [ends.min, ends.max, None, 7], kind) == [str(ends.min), str(ends.max), "", "7"]


@pytest.mark.parametrize(
    ("values", "kind", "wanted"),
    [
        (["a", None, ""], pa.string(), ["a", "", ""]),
        (["a", None, "é"], pa.large_string(), ["a", "", "é"]),
        ([b"k0", None, "é".encode()], pa.binary(), ["k0", "", "é"]),
        ([b"k0", b"k1"], pa.large_binary(), ["k0", "k1"]),
        ([b"k0", b"k1"], pa.binary(2), ["k0", "k1"]),
        ([True, False, None], pa.bool_(), ["1", "0", ""]),
        ([None, None], pa.null(), ["", ""]),
        ([1.0, None, float("nan"), -0.0, 0.5], pa.float64(), ["1.0", "", "", "0.0", "0.5"]),
        ([10000032.0, float("inf")], pa.float64(), ["10000032.0", "inf"]),
        ([2.0**53 - 1, 2.0**53], pa.float64(), ["9007199254740991.0", "9007199254740992.0"]),
        ([2.0**24 - 1, 2.0**24], pa.float32(), ["16777215.0", "1.677721600e+07"]),
        (np.array([2047, 2048], np.float16), pa.float16(), ["2047.0", "2.048000000e+03"]),
        ([decimal.Decimal(10**37 + 1), None], pa.decimal128(38, 0), [str(10**37 + 1), ""]),
        ([decimal.Decimal("9007199254740993.00")], pa.decimal128(20, 2), ["9007199254740993"]),
        ([decimal.Decimal("1000")], pa.decimal128(10, 0), ["1000"]),
        ([decimal.Decimal("-1.50")], pa.decimal256(50, 2), ["-1.5"]),
        ([DAY.date()], pa.date32(), ["2020-01-02"]),
        ([DAY], pa.timestamp("us"), ["2020-01-02 03:04:05.000000"]),
        ([DAY], pa.timestamp("us", "UTC"), ["2020-01-02 03:04:05.000000Z"]),
    ],
)
def test_types_read_as_their_text(tmp_path, values, kind, wanted):
    assert texts(tmp_path / "t", values, kind) == wanted


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.float32(), pa.bool_()])
def test_categories_read_as_their_values(tmp_path, kind):
    values = {pa.string(): ["a", None, "a"], pa.bool_(): [True, None, True]}.get(kind, [7, None, 7])
    assert texts(tmp_path / "t", pa.array(values, kind).dictionary_encode()) == texts(tmp_path / "u", values, kind)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([16777217], "float32"),
        ([2049], "float16"),
        ([10000001], "float32x"),
        ([2**53 + 1], "float64"),
        ([1e22], "float64"),
    ],
)
def test_ids_in_floats_too_narrow_for_them_are_refused(tmp_path, values, kind):
    """10000001 fits 32 bits."""
    table = written(tmp_path / "t", pd.DataFrame({"id": np.array(values, kind.rstrip("x"))}))
    if kind == "float32x":
        assert ids(table, "id", tmp_path / "t").tolist() == ["10000001"]
        return
    with pytest.raises(UserError, match="column 'id' holds .* lost digits"):
        ids(table, "id", tmp_path / "t")


def test_nullable_numbers_of_pandas_keep_their_digits(tmp_path):
    frame = pd.DataFrame(
        {"id": pd.array([2**53 + 1, None], "Int64"), "Edema": [1.0, np.nan], "x": pd.Categorical(["a", "b"])}
    )
    assert written(tmp_path / "t", frame).to_dict("list") == {
        "id": ["9007199254740993", ""],
        "Edema": ["1.0", ""],
        "x": ["a", "b"],
    }


def test_an_index_is_a_column(tmp_path):
    frame = pd.DataFrame({"subject": [1, 2], "key": ["a", "b"], "Edema": [0, 1]})
    alone, several = frame.set_index("key"), frame.set_index(["subject", "key"])
    wanted = {"subject": ["1", "2"], "key": ["a", "b"], "Edema": ["0", "1"]}
    assert written(tmp_path / "t", alone)[[*wanted]].to_dict("list") == wanted
    assert written(tmp_path / "t", several)[[*wanted]].to_dict("list") == wanted
    assert list(written(tmp_path / "t", frame)) == [*wanted]
    filtered = written(tmp_path / "t", frame[frame["Edema"] == 1])
    assert [name for name in filtered if not is_unnamed(name)] == [*wanted] and len(filtered) == 1


def test_several_row_groups_and_extension_types(tmp_path):
    table = pa.table({"id": [f"k{number}" for number in range(10_000)], "n": range(10_000)})
    pq.write_table(table, tmp_path / "t", row_group_size=999)
    read = read_table(tmp_path / "t")
    assert read["id"].tolist() == table["id"].to_pylist() and read["n"].iloc[-1] == "9999"
    assert texts(tmp_path / "t", pa.array(pd.period_range("2020-01", periods=2, freq="M"))) == ["600", "601"]


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([[1], [2]], pa.list_(pa.int64()), "list<element: int64>"),
        ([{"a": 1}, None], pa.struct({"a": pa.int64()}), "struct<a: int64>"),
        ([b"\xff\xfe", b"a"], pa.binary(), "binary"),
        ([uuid.uuid4().bytes, b"\xff" * 16], pa.binary(16), "fixed_size_binary[16]"),
    ],
)
def test_what_is_no_text_is_named_where_it_is_asked_for(tmp_path, values, kind, said):
    table = written(tmp_path / "t", pa.table({"id": pa.array(values, kind), "Edema": [0, 1]}))
    assert table.to_dict("list") == {"Edema": ["0", "1"]}
    assert str(no_column(tmp_path / "t", "id", table, "--id-column")) == (
        f"{tmp_path / 't'}: column 'id' (--id-column) holds {said}; give a column of single texts or numbers"
    )
    with pytest.raises(UserError, match="column 'id' holds "):
        read_table(tmp_path / "t", ("id",))


def test_doubled_names_are_refused(tmp_path):
    pq.write_table(pa.table([["a"], ["b"]], ["id", "id "]), tmp_path / "t")
    with pytest.raises(UserError, match="column 'id' is duplicated"):
        read_table(tmp_path / "t")


def test_a_text_that_is_no_utf_8_is_refused(tmp_path):
    text = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"id": text}), tmp_path / "t")
    with pytest.raises(UserError, match="not a readable table .*UTF"):
        read_table(tmp_path / "t")


def bomb(value: str, rows: int, category: bool) -> bytes:
    buffer = io.BytesIO()
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [value])
    table = pa.table({"id": text})
    pq.write_table(table if category else table.cast(pa.schema({"id": pa.string()})), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("category", [True, False])
def test_a_bomb_is_refused(tmp_path, monkeypatch, category):
    """A value that is repeated takes its bytes once in the file."""
    path = tmp_path / "t"
    monkeypatch.setattr(parquet, "MOST", 2**24)
    path.write_bytes(bomb("x" * 2**12, 2**12 + 1, category))
    assert path.stat().st_size < 2**16
    with pytest.raises(UserError, match="holds more than 16,777,216 bytes; at most"):
        read_table(path)
    monkeypatch.setattr(parquet, "CELLS", 1000)
    path.write_bytes(bomb("x", 1001, category))
    with pytest.raises(UserError, match="holds 1,001 rows of 1 columns; at most"):
        read_table(path)
