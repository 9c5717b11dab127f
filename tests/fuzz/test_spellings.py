"""Tables as other programs write them: the text that an independent reader has of them, or a UserError."""

import bz2
import contextlib
import csv
import datetime
import decimal
import gzip
import io
import lzma
import math
import random
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shards.errors import UserError
from shards.storage.csv import read_table
from shards.storage.table_file import SAVE
from tests.fuzz import damaged, one_line

pytestmark = pytest.mark.slow

SEPARATORS, CODINGS = ",;\t|", ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252", "utf-16-le")
LETTERS = 'ab1,;\t| "\n\r.-é\u00a0Ö'


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("t.csv", data)
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


PACKERS = {"plain": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd, "zip": zipped}
cells = st.text(st.sampled_from(LETTERS), max_size=6)
names = st.text(st.sampled_from("abcdé "), min_size=1, max_size=5).map(str.strip).filter(bool)


def read(path) -> list[list[str]] | None:
    """Header and rows; None if it is refused by one line that names the file."""
    try:
        table = read_table(path, again=SAVE)
    except UserError as error:
        one_line(error, path)
        return None
    return [list(table.columns), *table.to_numpy().tolist()]


def in_points(cell: str) -> str:
    """A whole number with a decimal comma, as it is with a point."""
    whole, comma, rest = cell.strip().partition(",")
    digits = whole.lstrip("+-") if whole[:1] in "+-" and whole[1:2] not in "+-" else whole
    number = comma and digits.isascii() and digits.isdigit() and rest and set(rest) == {"0"}
    return cell.replace(",", ".") if number else cell


def check_spelling(path, rows: list[list[str]], separator: str, end: str, coding: str, packer: str) -> None:
    """What is written is read; in a coding that does not say what it is, only what is ASCII, or nothing."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    try:
        data = text.getvalue().encode(coding)
    except UnicodeEncodeError:
        return
    path.write_bytes(PACKERS[packer](data))
    found = read(path)
    if coding in ("latin-1", "cp1252") and not text.getvalue().isascii():
        with contextlib.suppress(UnicodeDecodeError):
            data.decode()  # two letters of Latin-1 may be one of UTF-8
            return
        coding = "utf-16-le"
    if coding == "utf-16-le":
        assert found is None
        return
    if separator == "," or len(rows[0]) == 1:
        assert found == rows
    else:
        assert found == [rows[0], *([in_points(cell) for cell in row] for row in rows[1:])]


def random_rows(seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    columns = rng.randint(1, 4)
    header = [f"{'abc'[rng.randrange(3)]}{place}" for place in range(columns)]
    return [
        header,
        *(["".join(rng.choices(LETTERS, k=rng.randrange(6))) for _ in header] for _ in range(rng.randrange(5))),
    ]


def check_random_spelling(path, seed: int) -> None:
    rng = random.Random(seed)
    ends, packers = ("\n", "\r\n", "\r"), [*PACKERS]
    check_spelling(
        path, random_rows(seed), rng.choice(SEPARATORS), rng.choice(ends), rng.choice(CODINGS), rng.choice(packers)
    )


def check_damaged_spelling(path, seed: int) -> None:
    """Any kind of file, damaged: read or refused in one line, in no time."""
    rng = random.Random(seed)
    data = "\n".join(rng.choice(SEPARATORS).join(row) for row in random_rows(seed)).encode(
        rng.choice(CODINGS), "replace"
    )
    path.write_bytes(damaged(PACKERS[rng.choice([*PACKERS])](data), seed))
    read(path)


@given(
    st.lists(names, min_size=2, max_size=4, unique=True).flatmap(
        lambda header: st.lists(st.lists(cells, min_size=len(header), max_size=len(header)), max_size=5).map(
            lambda rows: [header, *rows]
        )
    ),
    st.sampled_from(SEPARATORS),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(CODINGS),
    st.sampled_from([*PACKERS]),
)
def test_every_spelling_is_read_as_it_was_written_or_refused(tmp_path, rows, separator, end, coding, packer):
    assume(len({" ".join(name.split()) for name in rows[0]}) == len(rows[0]))
    check_spelling(tmp_path / "t.csv", rows, separator, end, coding, packer)


@given(st.integers(0, 2**32 - 1))
def test_a_damaged_spelling_is_read_or_refused(tmp_path, seed):
    check_damaged_spelling(tmp_path / "t.csv", seed)


# ---------------------------------------------------------------- parquet


def whole(text: str) -> str:
    """A number's text without what a writer adds to a whole one."""
    return text[:-2] if text.endswith(".0") else text


def expected(value: object, kind: pa.DataType) -> str | None:
    """By Python alone: the text; None if a float is too narrow for its whole number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float):
        narrow = {"float": 2**24, "halffloat": 2**11}.get(str(kind))
        return None if narrow and narrow <= abs(value) < math.inf else repr(value + 0.0)
    if isinstance(value, decimal.Decimal):
        return str(int(value)) if value == int(value) else f"{value.normalize():f}"
    return str(value)


def floats(width: int):
    return st.one_of(
        st.floats(width=width), st.integers(-(2**20), 2**30).map(lambda n: float(np.dtype(f"f{width // 8}").type(n)))
    )


KINDS = [
    *((getattr(pa, f"int{bits}")(), st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)) for bits in (8, 16, 32, 64)),
    *((getattr(pa, f"uint{bits}")(), st.integers(0, 2**bits - 1)) for bits in (8, 16, 32, 64)),
    (pa.float64(), st.one_of(st.floats(), st.integers(-(2**60), 2**60).map(float))),
    (pa.float32(), floats(32)),
    (pa.float16(), st.floats(width=16)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(st.characters(codec="utf-8"), max_size=6)),
    (pa.large_string(), st.text(st.characters(codec="utf-8"), max_size=6)),
    (pa.binary(), st.text(st.characters(codec="utf-8"), max_size=6).map(str.encode)),
    (pa.decimal128(38, 0), st.integers(-(10**37), 10**37).map(decimal.Decimal)),
    (pa.decimal128(20, 3), st.integers(-(10**19), 10**19).map(lambda n: decimal.Decimal(n).scaleb(-3))),
    (pa.date32(), st.dates(datetime.date(1, 1, 1))),
    (pa.null(), st.none()),
]
COLUMNS = st.sampled_from(KINDS).flatmap(
    lambda each: st.lists(st.one_of(st.none(), each[1]), max_size=6).map(lambda values: (each[0], values))
)
LISTS = pa.list_(pa.int64())


@given(COLUMNS, st.booleans(), st.integers(1, 7))
def test_every_type_of_parquet_is_its_text_by_python(tmp_path, column, category, group):
    kind, values = column
    array = pa.array(values, kind)
    if category and not pa.types.is_null(kind) and not pa.types.is_float16(kind):
        array = array.dictionary_encode()
    nested = pa.array([[1, 2]] * len(values), LISTS)
    pq.write_table(pa.table({"id": array, "nested": nested}), tmp_path / "t.csv", row_group_size=group)
    table = read_table(tmp_path / "t.csv", ("id",))
    assert list(table.columns) == ["id"]
    for text, value in zip(table["id"], values, strict=True):
        wanted = expected(value, kind)
        if wanted is None:
            assert "e+" in text and float(text) == pytest.approx(value)
        else:
            assert text == wanted


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=5), st.booleans())
def test_a_frame_of_pandas_keeps_ids_in_index_and_columns(tmp_path, values, indexed):
    frame = pd.DataFrame({"id": pd.array(values, "Int64"), "key": [f"k{place}" for place in range(len(values))]})
    (frame.set_index("id") if indexed else frame).to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet", ("id", "key"))
    assert table["id"].tolist() == ["" if value is None else str(value) for value in values]
    assert table["key"].tolist() == frame["key"].tolist()


def parquet_bytes() -> bytes:
    buffer = io.BytesIO()
    frame = pd.DataFrame(
        {"id": [f"k{n}" for n in range(12)], "Edema": [0.0, 1.0] * 6, "c": pd.Categorical(["a", "b"] * 6)}
    )
    frame.to_parquet(buffer)
    return buffer.getvalue()


PARQUET = parquet_bytes()


def check_damaged_parquet(path, seed: int) -> None:
    """Read, perhaps with other values (parquet's own checksums are off), or refused in one line."""
    path.write_bytes(damaged(PARQUET, seed))
    read(path)


@given(st.integers(0, 2**32 - 1))
def test_damaged_parquet_is_read_or_refused(tmp_path, seed):
    check_damaged_parquet(tmp_path / "t.parquet", seed)
