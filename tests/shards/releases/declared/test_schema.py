"""The TOML of a release: what may stand in it, and the line that says what is wrong."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from shards.releases.declared.reader import shipped
from shards.releases.declared.schema import Field, Images, Join, Labels, Recognise, Schema, Table, read_schema
from tests.shards.releases.declared.own import PLAIN, refused

ROOT = Path(__file__).resolve().parents[4]


def schema_of(tmp_path, text):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return read_schema(file)


def test_every_key_goes_where_it_says(tmp_path):
    found = schema_of(
        tmp_path,
        """
name = "mine-2"
title = "Mine"
order = 7
notes = ["one", "two"]

[recognise]
files = "a.csv"
columns = { "a.csv" = ["x", "y"] }

[[tables]]
as = "images"
file = ["a.csv"]
split = "train"
set = { source = "here" }

[[tables]]
as = "more"
file = ["b.csv"]
join = { to = "images", on = ["x", "z"] }

[images]
image_id = "x"
path = ["y", { template = "{x}.png" }]
sex = { first = ["s", { column = "t", match = "^(.)" }], otherwise = "" }

[[labels]]
name = "mine"
findings = ["Edema"]
words = { ja = 1 }
""",
    )
    assert (found.name, found.order, found.notes) == ("mine-2", 7, ("one", "two"))
    assert found.recognise == (Recognise(("a.csv",), {"a.csv": ("x", "y")}),)
    assert found.tables[0].constants == {"source": "here", "split": "train"}
    assert found.tables[1].join == Join("images", ("x", "z"))
    assert found.images.path == (Field("y"), Field(template="{x}.png"))
    assert found.images.sex == Field(first=(Field("s"), Field("t", match="^(.)")), otherwise="")
    assert found.images.given.keys() == {"image_id", "sex"}
    assert found.labels == (Labels("mine", findings=("Edema",), words={"ja": 1}),)
    assert found.columns() >= {"x", "y", "s", "t", "z", "source", "split"} and "Edema" not in found.columns()


LABELS = '[[labels]]\nname = "l"\nfindings = ["A"]\n'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[[tables]]", "[[table]]"), "mine.toml: table is no key; did you mean tables?"),
        (('path = "file"', 'pth = "file"'), "images.pth is no key; did you mean path or depth? there are image_id,"),
        (('image_id = "id"\n', ""), "images.image_id is missing"),
        (('title = "A collection of a test"', "title = 3"), "title is 3; write a text in quotes"),
        (('file = ["t.csv"]', 'file = ["t.csv"]\npaths = "yes"'), "tables[1].paths is 'yes'; write true or false"),
        (('file = ["t.csv"]', 'file = ["t.csv"]\nset = "x"'), "tables[1].set is 'x'; write a table, {key = value}"),
        (('file = ["t.csv"]', 'file = ["t.csv"]\njoin = "x"'), "tables[1].join is 'x'; write a table, {key"),
        (('path = "file"', 'path = "file"\ndepth = "2"'), "images.depth is '2'; write a whole number"),
        (('image_id = "id"', 'image_id = {}'), "images.image_id: needs one of column, first and template"),
        (('image_id = "id"', 'image_id = { column = "a", match = "(a)(b)" }'), "more than one group"),
        (('image_id = "id"', 'image_id = { column = "a", match = "(a" }'), "images.image_id: missing )"),
        (('image_id = "id"', 'image_id = { template = "{a" }'), "images.image_id: expected '}'"),
        (('image_id = "id"', 'image_id = { template = "{a:5q}" }'), "images.image_id: Unknown format code 'q'"),
        (('image_id = "id"', 'image_id = { template = "{a:99999}" }'), "images.image_id: '99999' is too wide"),
        (('path = "file"', 'path = "file"\nsearch = "{id}.png"'), "images: needs path or, without a folder, search"),
        (('path = "file"', 'search = "a/{id}.png"'), "images: needs path or, without a folder, search"),
        (('path = "file"', ""), "images: needs path or, without a folder, search"),
        (('path = "file"', 'path = "file"\ntags = ["gender"]'), "images: tags holds 'gender'; choose one of study_id"),
        (('as = "images"', 'as = "image"'), "no tables are called as = 'images'; did you mean image?"),
        (('name = "mine"', 'name = "My data"'), "name is 'My data'; write it with a-z, 0-9 and -"),
        (('file = ["t.csv"]', 'file = "t.csv"\njoin = { to = "images", on = ["a", "b", "c"] }'), 'needs on = "col'),
        (("", LABELS + 'kind = "colums"'), "labels[1]: kind is 'colums'; did you mean columns?"),
        (("", LABELS + 'blank = "zero"'), "labels[1]: blank is 'zero'; choose one of unknown, negative"),
        (("", LABELS + 'kind = "long"'), "labels[1]: kind 'long' needs finding"),
        (("", '[[labels]]\nname = "l"\n'), "labels[1]: kind 'columns' needs findings, a list, or \"others\""),
        (("", LABELS.replace('["A"]', '"all"')), "labels[1]: kind 'columns' needs findings, a list, or \"others\""),
        (("", LABELS + "words = { yes = 2 }"), "labels[1]: words gives 'yes' the meaning 2; give 1, 0, -1"),
        (("", LABELS + 'kind = "text"\ncolumn = "c"\nwords = { yes = 1 }'), "words gives 'yes' the meaning 1"),
        (("", LABELS + 'readers = { join = "most" }'), "labels[1].readers: join rows 'most': choose"),
        (("", LABELS + LABELS), "labels 'l' are there twice"),
        (("", "a = ["), "not a TOML of a release ("),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_key(tmp_path, change, said):
    before, after = change
    assert before in PLAIN
    text = PLAIN.replace(before, after) if before else f"{PLAIN}\n{after}"
    found = refused(schema_of, tmp_path, text)
    assert str(tmp_path / "mine.toml") in found and said in found


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path):
    assert "cannot be read" in refused(read_schema, tmp_path / "no.toml")
    (tmp_path / "large.toml").write_text("#" * 2**21)
    assert "more than 1,048,576 bytes" in refused(read_schema, tmp_path / "large.toml")
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    assert "not a TOML of a release" in refused(read_schema, tmp_path / "latin.toml")


def test_what_is_read_has_a_digest_and_prose_has_none(tmp_path):
    plain = schema_of(tmp_path, PLAIN).digest
    assert schema_of(tmp_path, PLAIN.replace("A collection", "Another")).digest == plain
    assert schema_of(tmp_path, PLAIN.replace('"id"', '"key"')).digest != plain


def test_the_shipped_ones_are_whole():
    found = shipped()
    names = [schema.name for schema in found]
    assert len(set(names)) == len(names) >= 1
    for schema in found:
        assert schema.title and schema.needs and schema.recognise and schema.text
        assert 30 < schema.order < 1000 or schema.name.startswith("padchest")


def test_what_the_documentation_shows_is_read(tmp_path):
    text = (ROOT / "docs" / "releases.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        assert schema_of(tmp_path, block if "title = " in block else f'name = "a"\ntitle = "A"\n{block}').tables
    keys = {each.name.rstrip("_") for kind in (Schema, Table, Images, Labels) for each in fields(kind)} - {"text"}
    said = set(re.findall(r"`\[*([a-z_]+)[]`, =]", text))
    assert sorted(keys - said) == []
