"""JSON as a table of texts: every digit, three forms, and what is none of them."""

import gzip
from pathlib import Path

import pytest

from shards.errors import UserError
from shards.storage import json_table as module
from shards.storage.csv import how_written, read_table
from shards.storage.json_table import json_table

PATH = Path("t.json")


def rows(text: str) -> list[dict]:
    return json_table(PATH, text.encode()).to_pylist()


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": "x", "b": 1}, {"a": null, "b": 2.50}]',
        '{"a": "x", "b": 1}\n{"b": 2.50, "a": null}\n',
        '\n {"a": "x", "b": 1}\r\n\n{"b": 2.50}',
    ],
)
def test_lists_and_lines_of_objects(text):
    assert rows(text) == [{"a": "x", "b": "1"}, {"a": "", "b": "2.50"}]


def test_a_mapping_has_its_keys_as_a_column():
    assert rows('{"k1": {"a": true}, "k2": {"b": false}}') == [
        {"key": "k1", "a": "1", "b": ""},
        {"key": "k2", "a": "", "b": "0"},
    ]
    assert rows('{"k1": {"a": 1}, "k2": 2}') == [{"k1": '{"a": "1"}', "k2": "2"}]


def test_numbers_keep_their_digits_and_lists_stay_json():
    text = '[{"id": 123456789012345678901, "w": 1.10e-3, "n": NaN, "l": ["ä", 1, null], "u": "a\\u2028b"}]'
    found = {"id": "123456789012345678901", "w": "1.10e-3", "n": "", "l": '["ä", "1", null]', "u": "a\u2028b"}
    assert rows(text) == [found]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "'a' is duplicated"),
        ('{"k": {"x": 1}, "k": {"x": 2}}', "'k' is duplicated"),
        ('[{"a": 1}, 2]', "entry 2 is no object"),
        ('[{"a": 1}', "not JSON of objects .Expecting ',' delimiter"),
        ('{"a": 1}\n{"a": ', "not JSON of objects .Expecting value in line 2, column 7"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('[{"a": "\\ud800"}]', "not JSON of objects"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, said):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        read_table(tmp_path / "t.json", declared=True)
    assert str(tmp_path / "t.json") in str(error.value) and "\n" not in str(error.value)


def test_json_is_read_only_where_it_is_expected(tmp_path):
    (tmp_path / "t.csv").write_text('[{"a": 1}]')
    with pytest.raises(UserError, match="not a CSV table or parquet, but JSON"):
        read_table(tmp_path / "t.csv")


def test_it_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MOST", 8)
    with pytest.raises(UserError, match="it has 10 bytes, and JSON may have 8"):
        rows('[{"a": 1}]')
    monkeypatch.setattr(module, "MOST", 100)
    monkeypatch.setattr(module, "CELLS", 3)
    with pytest.raises(UserError, match="holds 2 objects of 2 names"):
        rows('[{"a": 1}, {"b": 1}]')


def test_how_a_table_is_written(tmp_path):
    for name, data, said in (
        ("a.csv", b"a;b\n1;2\n", "separated by semicolons"),
        ("b.csv", gzip.compress(b"a\tb\n1\t2\n"), "gzip, separated by tabs"),
        ("c.csv", b"a,b\n\xe9,2\n", "separated by commas"),
        ("d.csv", b'[{"a": 1}]', "JSON or parquet"),
    ):
        (tmp_path / name).write_bytes(data)
        assert how_written(tmp_path / name) == said
