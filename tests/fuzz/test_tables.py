"""Tables: what the csv module reads, or a UserError; ids: the same digits, or a UserError.

What no reader can see: a plain CSV cut at the end of a line, or inside the last value of a line. Row counts and
hashes of the release are for that.
"""

import csv
import gzip
import io
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cxrdali.predictions import Predictions, read
from shards.errors import UserError
from shards.releases import cxrlt
from shards.releases.ids import ids
from shards.releases.open import open_release
from shards.releases.values import finding_values
from shards.storage.csv import read_table
from tests.fuzz import damaged, one_line
from tests.fuzz.test_releases import check

pytestmark = pytest.mark.slow

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
CELLS = st.one_of(
    WORDS,
    st.text(st.sampled_from('ab, "\n\r\t\ufeff'), max_size=8),
    st.sampled_from(["", " ", "NA", "nan", "1.0", "10000032.0", "1e7"]),
)
NAMES = WORDS.map(str.strip).filter(lambda name: name and "\ufeff" not in name)
SEEDS = st.integers(0, 2**32 - 1)
TABLE = "dicom_id,note,Edema\n" + "".join(f'i{n},"a ""b"", é\n{n}",{n % 2}.0\n' for n in range(12))


def reference(path) -> list[list[str]] | None:
    """Header and rows as the csv module reads them, without blank lines; None if it cannot, or where a byte is 0."""
    try:
        data = gzip.GzipFile(path).read() if path.suffix == ".gz" else path.read_bytes()
        if b"\0" in data:
            return None
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if row]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error):
        return None
    return [[name.strip() for name in rows[0]], *rows[1:]] if rows else None


def check_table(path, data: bytes) -> bool:
    """Whether read_table read it; what it reads is the csv module's."""
    path.write_bytes(data)
    try:
        table = read_table(path)
    except UserError as error:
        one_line(error, path)
        return False
    assert [table.columns.tolist(), *table.to_numpy().tolist()] == reference(path)
    assert table.columns.is_unique
    text = gzip.GzipFile(path).read() if path.suffix == ".gz" else data
    assert text.count(b'"') % 2 == 0  # csv takes the rest of the file for the value whose quote is not closed
    return True


def written(rows, **dialect) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, **dialect).writerows(rows)
    return text.getvalue()


def tables(columns=4, rows=8):
    return st.lists(NAMES, min_size=1, max_size=columns, unique=True).flatmap(
        lambda names: st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), max_size=rows).map(
            lambda rows: [names, *rows]
        )
    )


@given(
    tables(),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.booleans(),
)
@example([["a\nb", "c\r\n\r\nd"], ["1", "2"]], csv.QUOTE_ALL, "\r\n", True, False)
def test_every_table_that_csv_writes_is_read(tmp_path, rows, quoting, end, bom, zipped):
    path = tmp_path / ("t.csv.gz" if zipped else "t.csv")
    data = (b"\xef\xbb\xbf" if bom else b"") + written(rows, quoting=quoting, lineterminator=end).encode()
    path.write_bytes(gzip.compress(data) if zipped else data)
    assume(len({len(row) for row in reference(path)}) == 1)  # the writer leaves a \r unquoted when lines end in \n
    assert check_table(path, path.read_bytes())


@given(tables(), st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from("\\x|"))
def test_escape_characters_are_text(tmp_path, rows, end, escape):
    rows = [["first", *row] for row in rows]  # csv cannot write a lone blank without quotes
    text = written(rows, quoting=csv.QUOTE_NONE, escapechar=escape, lineterminator=end)
    check_table(tmp_path / "t.csv", text.encode())


@given(
    st.sampled_from(["a,b\n", "a,a\n", "a\r\n", '"a\n",b\r', "a", ""]),
    st.text(st.sampled_from('xé,"\n\r \ufeff'), max_size=40),
)
def test_any_text_is_read_as_csv_does_or_refused(tmp_path, header, text):
    check_table(tmp_path / "t.csv", (header + text).encode())


@pytest.mark.parametrize("shift", range(-3, 3))
def test_a_quoted_newline_at_any_place_of_a_large_file_is_kept(tmp_path, shift):
    """Arrow reads blocks of 1 MiB by default and loses the second half of a CRLF that two blocks share."""
    rows = f"{'x' * 56},12345\r\n" * (2**14 - 1)  # 64 bytes each; the next row lies on the border
    text = "a,b\r\n" + rows + f"{'y' * (50 + shift)}," + '"' + "\r\n" * 10 + '"\r\n' + rows
    assert len("a,b\r\n" + rows) < 2**20 - 50 and check_table(tmp_path / "t.csv", text.encode())


def test_a_header_without_end_is_refused(tmp_path):
    assert not check_table(tmp_path / "t.csv", b"a" * 200_000 + b",b\n1,2\n")


@given(SEEDS, st.booleans())
def test_damage_is_refused_or_read_as_csv_does(tmp_path, seed, zipped):
    data = gzip.compress(TABLE.encode(), mtime=0) if zipped else TABLE.encode()
    check_table(tmp_path / ("t.csv.gz" if zipped else "t.csv"), damaged(data, seed))


def test_a_gz_cut_anywhere_is_refused(tmp_path):
    data = gzip.compress(TABLE.encode(), mtime=0)
    assert check_table(tmp_path / "t.csv.gz", data)
    assert not any(check_table(tmp_path / "t.csv.gz", data[:length]) for length in range(len(data)))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_plain_table_cut_anywhere_loses_the_end_and_nothing_else(tmp_path, end):
    path, data = tmp_path / "t.csv", TABLE.replace("\n", end).encode()
    path.write_bytes(data)
    whole = read_table(path).to_numpy().tolist()
    for length in range(len(data)):
        if check_table(path, data[:length]):
            rows = read_table(path).to_numpy().tolist()
            assert rows[:-1] == whole[: max(0, len(rows) - 1)]
            for row, before in zip(rows[-1:], whole[len(rows) - 1 :], strict=False):
                assert row[:-1] == before[:-1] and before[-1].startswith(row[-1])


# ---------------------------------------------------------------- ids and findings


def one_id(path, text: str, prefix="") -> str | None:
    try:
        return ids(pd.DataFrame({"id": [text]}), "id", path, prefix).iloc[0]
    except UserError as error:
        one_line(error, path)
        assert "'id'" in str(error) and (repr(text) in str(error) or "blank in line 2" in str(error))
        return None


@given(st.integers(0, 10**42), st.sampled_from(["{!r}", "{:.1f}", "{:.2f}", "{:e}", "{:.3e}", "{:E}", "{:.17e}"]))
@example(2**53 - 1, "{!r}")
@example(2**53, "{!r}")
@example(2**53 + 1, "{!r}")
@example(10_000_032, "{:.2f}")
@example(10_000_000, "{:e}")
def test_a_number_that_was_a_float_is_the_same_number_or_refused(tmp_path, number, style):
    """(A float written without a dot cannot be told from a whole number.)"""
    text = style.format(float(number))
    read = one_id(tmp_path, text)
    assert read in (None, str(number))
    assert (read is None) == ("e" in text.lower() or number >= 2**53)


@given(st.integers(0, 10**42), st.sampled_from(["", "p", "s"]), st.sampled_from(["", " ", "\n", "\u00a0"]))
def test_whole_numbers_keep_every_digit(tmp_path, number, prefix, blank):
    assert one_id(tmp_path, f"{blank}{prefix}{number}{blank}", prefix) == str(number)


@pytest.mark.parametrize("text", ["1e7", "1.0E+07", "1E7 ", "10.5e6", "1.e7", ".5e7", "+1e7", "-1e7", "1.9E+38"])
def test_exponents_are_refused(tmp_path, text):
    assert one_id(tmp_path, text) is None


@pytest.mark.parametrize("text", ["", " ", "\n", "nan", "NaN", "NA", " null "])
def test_blanks_are_refused(tmp_path, text):
    assert one_id(tmp_path, text) is None


KEPT = ["10000032.5", "p10000032", "inf", "-1", "1.2.840", "s²", "٣.0", "1" * 5000]


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_number_is_kept_as_text(tmp_path, text):
    assert one_id(tmp_path, text, "s") == text


@given(WORDS)
def test_an_id_is_read_the_same_way_twice(tmp_path, text):
    read = one_id(tmp_path, text, "p")
    assert read is None or one_id(tmp_path, read, "") == read


@given(st.lists(st.sampled_from(["1", "1.0", "0", "0.0", "-1", "-1.0", "", "nan", "NA"]), max_size=20), CELLS)
def test_findings_are_numbers_or_named(tmp_path, values, other):
    def number(text):
        return None if text in ("", "nan", "NA") else int(float(text))

    read = finding_values(pd.DataFrame({"Edema": values}, dtype=str), "Edema", tmp_path)
    assert [None if value is pd.NA else value for value in read] == [number(value) for value in values]
    try:
        finding_values(pd.DataFrame({"Edema": [other]}), "Edema", tmp_path)
    except UserError as error:
        one_line(error, tmp_path)
    else:
        assert other.strip() in ("", "1.0", "nan", "NA", "1", "0", "-1", "NaN", "null")


# ---------------------------------------------------------------- releases and predictions

SPLIT = "dicom_id,study_id,subject_id,split\n" + "".join(
    f"i{n},{5_000 + n // 2},{100 + n // 4},{('train', 'validate', 'test')[n % 3]}\n" for n in range(9)
)
RELEASE = {
    "mimic-cxr-2.0.0-metadata.csv.gz": SPLIT.replace("split", "ViewPosition").replace("validate", "AP"),
    "mimic-cxr-2.0.0-split.csv.gz": SPLIT,
    "mimic-cxr-2.0.0-chexpert.csv.gz": "subject_id,study_id,Edema\n"
    + "".join(f"1,{5_000 + n},1.0\n" for n in range(4)),
    "train.csv": "path,Edema,Mass\n" + "".join(f"files/p1/s/i{n}.jpg,{n % 2},0\n" for n in range(6)),
    "development.csv": "dicom_id,Edema,Mass\ni6,1,0\ni7,0,\n",
    "labels.csv": "dicom_id,split,Edema,Mass\ni0,train,1,0\ni1,dev,,1\ni2,test,0,0\n",
}


def release(root):
    for name, text in RELEASE.items():
        (root / name).write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith(".gz") else text.encode())
    return root


def check_release(root, seed: int) -> bool:
    """One table of a release is damaged: the release opens, or one line names a file of it."""
    name = sorted(RELEASE)[seed % len(RELEASE)]
    changed = damaged(RELEASE[name].encode(), seed)
    changed = gzip.compress(changed, mtime=0) if name.endswith(".gz") else changed
    return check(open_release, root, root / name, changed)


def test_the_release_opens(tmp_path):
    assert [table.name for table in open_release(release(tmp_path)).labels] == [
        "cxr-lt-2023",
        "cxr-lt-2024-all",
        "chexpert",
    ]


@given(SEEDS)
def test_a_damaged_release_opens_or_names_the_file(tmp_path, seed):
    check_release(release(tmp_path), seed)


@pytest.mark.parametrize("path", ["files/p1/", "files/.jpg", ".jpg"])
def test_a_label_of_no_file_is_refused(tmp_path, path):
    (tmp_path / "train.csv").write_text(f"path,Edema\nfiles/i1.jpg,1\n{path},1\n")
    with pytest.raises(UserError, match="train.csv: column 'path' names no file in line 3"):
        cxrlt.find(tmp_path)


@pytest.mark.parametrize("header", ['"a\nb",c', 'dicom_id,"a\nb"'], ids=["no id", "no split"])
def test_names_that_hold_newlines_stay_in_one_line(tmp_path, header):
    (tmp_path / "labels.csv").write_text(f"{header}\n1,1\n")
    with pytest.raises(UserError) as error:
        cxrlt.find(tmp_path)
    one_line(error.value, tmp_path / "labels.csv")


def test_dots_in_a_labelled_id_are_kept(tmp_path):
    (tmp_path / "train.csv").write_text("path,Edema\nfiles/1.2.3.jpg,1\nfiles/1.2.4.jpg,0\n")
    assert cxrlt.find(tmp_path)[0].table.index.tolist() == ["1.2.3", "1.2.4"]


def predictions() -> Predictions:
    names = pd.DataFrame({"image_id": ["007", "1e5", "a b"], "study_id": "01", "view": "frontal"})
    return Predictions(names, ("A", "B, C"), np.array([[1.5, -2], [3, 40], [0, -1e-7]], dtype=np.float32))


def check_predictions(path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        back = read(path)
    except UserError as error:
        one_line(error, path)
        return False
    assert back.values.shape == (len(back.ids), len(back.findings)) and np.isfinite(back.values).all()
    assert back.values.dtype == np.float32 and back.ids["image_id"].is_unique
    if path.suffix == ".csv":
        rows = reference(path)
        assert len(rows) == len(back.ids) + 1
        for name in back.ids:
            assert back.ids[name].tolist() == [row[rows[0].index(name)] for row in rows[1:]]
        for place, finding in enumerate(back.findings):
            wanted = [np.float32(row[rows[0].index(finding)]) for row in rows[1:]]
            np.testing.assert_array_equal(back.values[:, place], wanted)
    return True


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@given(seed=SEEDS)
def test_damaged_predictions_are_refused_or_read_as_they_are(tmp_path, suffix, seed):
    path = tmp_path / f"p{suffix}"
    predictions().write(path)
    check_predictions(path, damaged(path.read_bytes(), seed))


@pytest.mark.parametrize(
    "text",
    [
        "image_id,study_id,view,A,A\na,b,c,1,2\n",
        "image_id,study_id,view,A\na,b,c,1,2\n",
        "image_id,study_id,view,A\n,b,c,1\n",
    ],
    ids=["a finding twice", "a value too many", "a blank id"],
)
def test_predictions_that_pandas_would_bend_are_refused(tmp_path, text):
    assert not check_predictions(tmp_path / "p.csv", text.encode())


@pytest.mark.parametrize(
    "columns",
    [{"A": [[1.0], [2.0]]}, {"A": pd.to_datetime(["2020-01-01", "2020-01-02"], utc=True)}, {"image_id": ["a", None]}],
    ids=["lists", "dates", "no id"],
)
def test_parquet_that_holds_no_predictions_is_refused(tmp_path, columns):
    table = pd.DataFrame({"image_id": ["a", "b"], "study_id": "1", "view": "x", "A": [1.0, 2.0]}).assign(**columns)
    table.to_parquet(tmp_path / "t.parquet")
    assert not check_predictions(tmp_path / "p.parquet", (tmp_path / "t.parquet").read_bytes())


@pytest.mark.parametrize("change", ["a column twice", "[1]", "{", "pandas"])
def test_parquet_of_another_writer_is_refused(tmp_path, change):
    table = pa.table([["a"], ["1"], ["x"], [1.0], [2.0]], ["image_id", "study_id", "view", "A", "B"])
    if change == "a column twice":
        table = table.rename_columns(["image_id", "study_id", "view", "A", "A"])
    else:
        table = table.replace_schema_metadata({"pandas": "{}"} if change == "pandas" else {"cxrdali": change})
    pq.write_table(table, tmp_path / "t.parquet")
    assert not check_predictions(tmp_path / "p.parquet", (tmp_path / "t.parquet").read_bytes())
