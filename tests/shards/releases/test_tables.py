"""Reading CSV tables as text: what is the same id, what is refused, and what the message says."""

import gzip
import re

import pandas as pd
import pytest

from shards.errors import UserError
from shards.releases.ids import ids
from shards.releases.values import finding_values, splits
from shards.storage.csv import read_table
from tests.releases import write_table


def refused(path, required=()):
    with pytest.raises(UserError) as error:
        read_table(path, required)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def column(*values):
    return pd.DataFrame({"study_id": values})


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["no BOM", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_byte_order_mark_line_ends_and_compression_change_nothing(tmp_path, start, end, name):
    path = tmp_path / name
    data = start + end.join([b"dicom_id,ViewPosition", b"a,AP", b"b,", b""])
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    table = read_table(path, ("dicom_id", "ViewPosition"))
    assert table.to_dict("list") == {"dicom_id": ["a", "b"], "ViewPosition": ["AP", ""]}


def test_every_cell_stays_the_text_it_was(tmp_path):
    path = write_table(tmp_path / "t.csv", " id ,a,b,c,d", "007,NA,None,1.0,1e5", '"x,y",nan,null,, z')
    table = read_table(path)
    assert table.values.tolist() == [["007", "NA", "None", "1.0", "1e5"], ["x,y", "nan", "null", "", " z"]]
    assert table.columns.tolist() == ["id", "a", "b", "c", "d"]


def test_an_absent_table_says_where_to_get_it(tmp_path):
    assert "no such file; download it" in refused(tmp_path / "absent.csv.gz")


def test_a_gz_cut_at_any_byte_is_refused(tmp_path):
    path = write_table(tmp_path / "t.csv.gz", "id,a", *(f"{n},{n * n}" for n in range(40)))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert "download it again" in refused(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"\x00\x01\xff\xfe", "id,a\n1,2\n".encode("utf-16-le"), b'id,a\n1,"2\n3,4\n'],
    ids=["empty", "blank lines", "binary", "UTF-16 without a mark", "open quote"],
)
def test_what_is_no_table_is_refused(tmp_path, data):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    assert "not a CSV table" in refused(path)


def test_a_gz_that_was_unpacked_and_kept_its_name_is_read(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(b"id,a\n1,2\n")
    assert read_table(path).to_dict("list") == {"id": ["1"], "a": ["2"]}


def test_a_missing_column_is_named_beside_those_found(tmp_path):
    path = write_table(tmp_path / "t.csv", "dicom_id,subject_id", "a,1")
    assert "'study_id' is missing; found dicom_id, subject_id" in refused(path, ("dicom_id", "study_id"))


@pytest.mark.parametrize(
    "line",
    ["b,1", "b", "b,1,0,", "b,1,0,5"],
    ids=["cut in the last column", "cut after the id", "trailing comma", "one value too many"],
)
def test_a_row_that_does_not_fit_the_header_is_refused(tmp_path, line):
    """A plain CSV that lost its end would otherwise read as blank labels."""
    refused(write_table(tmp_path / "t.csv", "dicom_id,Edema,Mass", "a,0,1", line))


def test_rows_that_all_have_a_trailing_comma_shift_no_column(tmp_path):
    """pandas takes the first column of such a table as its index: every value lands under the wrong name."""
    path = write_table(tmp_path / "t.csv", "dicom_id,Edema,Mass", "a,1,0,", "b,1,0,")
    try:
        table = read_table(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert table["dicom_id"].tolist() == ["a", "b"] and table["Mass"].tolist() == ["0", "0"]


def test_a_column_that_stands_twice_is_refused(tmp_path):
    assert "'Mass'" in refused(write_table(tmp_path / "t.csv", "dicom_id,Mass,Mass", "a,1,0"))


def test_ids_written_in_several_ways_are_one_id(tmp_path):
    table = column("50414267", "50414267.0", "50414267.", "s50414267", " 50414267 ")
    assert ids(table, "study_id", tmp_path, prefix="s").unique().tolist() == ["50414267"]


def test_a_prefix_belongs_to_numbers_only(tmp_path):
    table = column("s50414267", "sample", "s")
    assert ids(table, "study_id", tmp_path, prefix="s").tolist() == ["50414267", "sample", "s"]
    assert ids(table, "study_id", tmp_path).tolist() == ["s50414267", "sample", "s"]


def test_long_and_odd_ids_lose_nothing(tmp_path):
    odd = ["02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "216840111366964012373310883942009111084022290", "1.2.840"]
    assert ids(column(*odd), "study_id", tmp_path).tolist() == odd


@pytest.mark.parametrize("value", ["1.90E+38", "1e7", "1.0000032e+07", "5E7"])
def test_exponents_have_lost_digits_and_are_refused(tmp_path, value):
    with pytest.raises(UserError, match="lost digits; use a copy") as error:
        ids(column("50414267", value), "study_id", tmp_path / "t.csv")
    assert str(tmp_path / "t.csv") in str(error.value) and repr(value) in str(error.value)
    assert "'study_id'" in str(error.value)


@pytest.mark.parametrize("value", ["", "  "])
def test_a_blank_id_is_refused_with_its_line(tmp_path, value):
    with pytest.raises(UserError, match="t.csv: column 'study_id' is blank in line 4"):
        ids(column("1", "2", value, "3"), "study_id", tmp_path / "t.csv")


def test_findings_keep_uncertain_and_blank(tmp_path):
    values = {
        1: ("1", "1.0", "1.", " 1", "1.00", "+1", "01"),
        0: ("0", "0.0", " 0", "0.00", "-0", "-0.0", "0.", ".0", "0 "),
        -1: ("-1", "-1.0", " -1 ", "-1."),
        None: ("", " ", "NA", "nan", "NaN", "null", "<NA>", "None", "NULL", "#N/A", "n/a"),
    }
    texts = [text for group in values.values() for text in group]
    read = finding_values(pd.DataFrame({"Edema": texts}), "Edema", tmp_path)
    expected = [value for value, group in values.items() for _ in group]
    assert read.astype(object).where(read.notna(), None).tolist() == expected
    assert str(read.dtype) == "Int8"


ADVICE = {"True": "1 for yes and 0 for no", "yes": "1 for yes and 0 for no", "Negative": "1 for yes and 0 for no"}
ADVICE |= {
    "0.73": "for a probability, write 1 from the threshold",
    "1e-7": "for a probability",
    ".5": "for a probability",
}
ADVICE |= {"1,0": "decimal comma", "0,5": "decimal comma", "2": "or blank.", "unknown": "or blank.", "?": "or blank."}


@pytest.mark.parametrize("value", ADVICE)
def test_the_message_tells_what_to_write_for_a_finding(tmp_path, value):
    with pytest.raises(UserError) as error:
        finding_values(pd.DataFrame({"Edema": ["1", f" {value}", "0"]}), "Edema", tmp_path / "t.csv")
    assert f"holds {' ' + value!r}; a finding is 1, 0, -1 or blank" in str(error.value)
    assert ADVICE[value] in str(error.value)


@pytest.mark.parametrize("value", ["2", "0.5", "yes", "-2", "1.5", "1e0", ".", "-", "--1", "٠", "1 0", "0x1", "inf"])
def test_an_unknown_finding_value_is_named(tmp_path, value):
    table = pd.DataFrame({"Edema": ["1", value]})
    with pytest.raises(
        UserError, match=f"t.csv: column 'Edema' holds '{re.escape(value)}'; .*remove it from the table"
    ):
        finding_values(table, "Edema", tmp_path / "t.csv")


SPLITS = {
    "train": ("train", "Train", "TRAIN ", "training"),
    "dev": ("dev", "val", "Val ", "valid", "VALIDATION", "validate", "development", " Dev"),
    "test": ("test", "TEST", "testing", "Test\u00a0"),
}


def test_splits_are_known_in_any_case_and_with_blanks(tmp_path):
    words = pd.Series([word for group in SPLITS.values() for word in group])
    assert splits(words, tmp_path).tolist() == [split for split, group in SPLITS.items() for _ in group]


@pytest.mark.parametrize("word", ["", " ", "0", "1", "2", "fold 3", "holdout", "trainval", "NA", "eval", "train,test"])
def test_any_other_split_is_refused_with_those_known_and_its_line(tmp_path, word):
    with pytest.raises(UserError) as error:
        splits(pd.Series(["train", "test", word, word]), tmp_path / "t.csv", "part")
    assert f"t.csv: column 'part' holds {word!r}; known are train, training, dev" in str(error.value)
    assert str(error.value).endswith("test, testing (first in line 4)")
