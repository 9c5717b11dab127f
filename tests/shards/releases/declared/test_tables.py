"""Tables of a declared release: found by their names, read in any form, stacked, exploded and joined."""

import bz2
import gzip
import json
import zipfile

import pandas as pd
import pytest

from shards.releases.declared.tables import Files, items
from tests.shards.releases.declared.layout import saved_by_excel
from tests.shards.releases.declared.own import PLAIN, opened, refused, stack, write

ROWS = "id,file\na,1.png\nb,2.png"
READ = {"id": ["a", "b"], "file": ["1.png", "2.png"]}


def table(*lines: str) -> str:
    """The declaration with more lines for its table."""
    return PLAIN.replace('file = ["t.csv"]', "\n".join(['file = ["t.csv"]', *lines]))


# ---------------------------------------------------------------- found and read


def forms(folder):
    """The same table in every form that is read, by the name of its file."""
    frame = pd.DataFrame(READ)
    records = frame.to_dict("records")
    yield "t.csv", ROWS.encode()
    yield "T.CSV", ROWS.encode()
    yield "t.csv.gz", gzip.compress(ROWS.encode())
    yield "t.csv.bz2", bz2.compress(ROWS.encode())
    with zipfile.ZipFile(folder / "z", "w") as file:
        file.writestr("t.csv", ROWS)
    yield "t.csv.zip", (folder / "z").read_bytes()
    yield "t.tsv", ROWS.replace(",", "\t").encode()
    yield "t.txt", ROWS.replace(",", ";").encode("utf-16")
    frame.to_parquet(folder / "p")
    yield "t.parquet", (folder / "p").read_bytes()
    yield "records.json", json.dumps(records, indent=1).encode()
    yield "lines.jsonl", "\n".join(map(json.dumps, records)).encode()
    yield "lines.json.gz", gzip.compress("\n".join(map(json.dumps, records)).encode())


def test_a_table_reads_alike_in_every_form(tmp_path):
    for number, (name, data) in enumerate(forms(tmp_path)):
        folder = tmp_path / str(number)
        folder.mkdir()
        declaration = PLAIN.replace('"t.csv"', f'"{name.lower().removesuffix(".gz")}"')
        (write(folder, declaration) / name).write_bytes(data)
        found = stack(folder, declaration)
        assert found.frame.to_dict("list") == READ, name
        assert found.files[0][0].name == name and found.notes == ()


def test_a_mapping_of_json_has_its_keys_as_a_column(tmp_path):
    declaration = PLAIN.replace('"t.csv"', '"t.json"').replace('"id"', '"key"')
    text = '{"007": {"file": "1.png", "n": 12345678901234567890, "w": 1.50}, "b": {"file": null}}'
    assert stack(tmp_path, declaration, t__json=text).frame.to_dict("list") == {
        "key": ["007", "b"],
        "file": ["1.png", ""],
    }


def test_the_first_name_that_is_there_is_taken_and_folders_may_be_patterns(tmp_path):
    release = write(tmp_path)
    for path in ("b/x.csv", "a/x.csv", "a/._x.csv", "a/y.csv"):
        (release / path).parent.mkdir(exist_ok=True)
        (release / path).write_text(ROWS)
    found = Files(release)
    assert found.named("*/X.csv.gz") == [[release / "a/x.csv"], [release / "b/x.csv"]]
    assert found.named("a/*.csv") == [[release / "a/x.csv"], [release / "a/y.csv"]]
    assert found.named("c/*.csv") == [] and found.named("a/x.csv/z") == []
    read = stack(tmp_path, table().replace('["t.csv"]', '["no.csv", "b/*.csv", "a/*.csv"]'))
    assert read.files == ((release / "b/x.csv", 2),)


def test_several_files_of_one_pattern_are_refused_or_stacked(tmp_path):
    some = {"t1__csv": "id,file\na,1.png", "t2__csv": "id,file,sex\nb,2.png,F"}
    declaration = table().replace("t.csv", "t1.csv") + '[[tables]]\nas = "images"\nfile = ["t2.csv"]\n'
    either = table().replace('"t.csv"', '"t*.csv"')
    assert "t*.csv is any of t1.csv, t2.csv; keep one" in refused(stack, tmp_path, either, **some)
    found = stack(tmp_path, declaration.replace('image_id = "id"', 'image_id = "id"\nsex = "sex"'))
    assert found.frame.to_dict("list") == {"id": ["a", "b"], "file": ["1.png", "2.png"], "sex": ["", "F"]}
    assert [found.place(row)[0].name + " " + found.place(row)[1] for row in (0, 1)] == [
        "t1.csv line 2",
        "t2.csv line 2",
    ]
    assert found.notes == ("t1.csv has no sex: blank there",)


def test_two_files_of_one_table_must_be_the_same(tmp_path):
    release = write(tmp_path, t__csv=ROWS)
    (release / "t.csv.gz").write_bytes(gzip.compress(ROWS.encode()))
    assert stack(tmp_path, PLAIN).frame.to_dict("list") == READ
    (release / "t.csv.gz").write_bytes(gzip.compress(ROWS.replace("1", "3").encode()))
    assert "differs from t.csv.gz beside it" in refused(stack, tmp_path, PLAIN)


def test_an_absent_table_is_named_with_what_is_needed(tmp_path):
    declaration = 'needs = "t.csv and some images"\n' + PLAIN
    assert "release: no t.csv; mine needs t.csv and some images" in refused(stack, tmp_path, declaration)
    assert stack(tmp_path, table("optional = true")) is None


def test_a_table_in_windows_1252_is_read_and_that_is_said(tmp_path):
    release = write(tmp_path)
    declaration = PLAIN.replace('path = "file"', 'path = "file"\nmanufacturer = "maker"')
    (release / "t.csv").write_bytes("id,file,maker\na,1.png,Société\nb,2.png,\u20ac\n".encode("cp1252"))
    found = stack(tmp_path, declaration)
    assert found.frame["maker"].tolist() == ["Société", "\u20ac"] and found.guessed == (release / "t.csv",)
    assert found.notes == ("t.csv is no UTF-8 and is read as Windows-1252; letters beyond ASCII are in: maker (2)",)
    (release / "t.csv").write_bytes(b"id,file,maker\na,1.png,\x81\n")  # no letter there
    assert "t.csv: not a CSV table in UTF-8 (the byte 0x81" in refused(stack, tmp_path, declaration)


def test_a_table_of_a_spreadsheet_reads_alike(tmp_path):
    saved_by_excel(write(tmp_path, t__csv=ROWS) / "t.csv")
    assert stack(tmp_path, PLAIN).frame.to_dict("list") == READ


# ---------------------------------------------------------------- columns and rows


def test_columns_are_renamed_kept_and_set(tmp_path):
    text = "key,where,id\na,1.png,x\nb,2.png,y"
    lines = ('keep = ["key", "where"]', 'rename = { key = "id", where = "file", other = "z" }', 'set = { sex = "F" }')
    declaration = table(*lines).replace('image_id = "id"', 'image_id = "id"\nsex = "sex"')
    assert stack(tmp_path, declaration, t__csv=text).frame.to_dict("list") == {**READ, "sex": ["F", "F"]}
    assert "two columns are called 'id' after" in refused(stack, tmp_path, table('rename = { key = "id" }'))
    assert "column 'keys' is missing" in refused(stack, tmp_path, table('keep = ["keys"]'))


def test_rows_are_left_out_by_a_value_and_counted(tmp_path):
    text = "id,file,view\na,1.png,PA\nb,2.png,L\nc,3.png, AP "
    found = stack(tmp_path, table('where = { view = ["PA", "AP"] }'), t__csv=text)
    assert found.frame["id"].tolist() == ["a", "c"] and found.row.tolist() == [0, 2]
    assert found.notes == ("t.csv: 1 row left out, whose view is not PA or AP",)
    said = refused(opened, tmp_path, table('where = { view = ["AX"] }'))
    assert "t.csv: no image is left; t.csv: 3 rows left out, whose view is not AX" in said


def test_lists_become_a_row_each_side_by_side(tmp_path):
    declaration = PLAIN.replace('file = ["t.csv"]', 'file = ["t.json"]\nexplode = ["file", "view"]')
    text = json.dumps(
        [
            {"id": "s1", "file": ["1.png", "2.png"], "view": ["PA", "L"]},
            {"id": "s2", "file": [], "view": []},
            {"id": "s3", "file": ["3.png"], "view": None},
        ]
    )
    found = stack(tmp_path, declaration, t__json=text)
    assert found.frame.to_dict("list") == {
        "id": ["s1", "s1", "s3"],
        "file": ["1.png", "2.png", "3.png"],
        "view": ["PA", "L", ""],
    }
    assert [found.place(row)[1] for row in range(3)] == ["entry 1", "entry 1", "entry 3"]
    assert found.notes == ("t.json: 1 row left out, whose file lists nothing",)
    uneven = text.replace('["PA", "L"]', '["PA"]')
    said = refused(stack, tmp_path, declaration, t__json=uneven)
    assert "column 'file' lists 2 texts and column 'view' 1 in entry 1" in said
    said = refused(stack, tmp_path, declaration, t__json=text.replace('["3.png"]', '"3.png"'))
    assert "column 'file' holds '3.png', which is no list, in entry 3" in said


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("['normal', 'COPD signs ']", ["normal", "COPD signs "]),
        ('["a, b", null, 007]', None),
        ('["a, b", null, 7, 1.50]', ["a, b", "", "7", "1.50"]),
        ("('a', u'b')", ["a", "b"]),
        ("", []),
        (" [] ", []),
        ("nan", None),
        ("['a' 'b']", None),  # NumPy's, which Python reads as ab
        ("[['a']]", None),
        ("__import__('os')", None),
        ("[" * 10_000, None),
    ],
)  # fmt: skip
def test_lists_as_json_and_python_write_them(text, found):
    assert items(text) == found


# ---------------------------------------------------------------- joined

JOINED = """
[[tables]]
as = "people"
file = ["p.csv"]
optional = true
join = { to = "images", on = ["id", "key"] }
"""


def test_a_second_table_is_joined_by_a_key(tmp_path):
    declaration = PLAIN.replace('path = "file"', 'path = "file"\nsex = "sex"') + JOINED
    found = stack(tmp_path, declaration, t__csv=ROWS, p__csv="key,sex,file\nb,F,x\nz,M,y")
    assert found.frame.to_dict("list") == {**READ, "key": ["", "b"], "sex": ["", "F"]}
    assert found.notes == ("p.csv has no row for 1 row of images: blank there", "p.csv: 1 row of no row of images")
    said = refused(stack, tmp_path, declaration, p__csv="key,sex\nb,F\nb,M")
    assert (
        "p.csv: column 'key' holds 'b' again, and rows of 'images' are joined by it: keep one of them. It is in line 3"
        in said
    )
    said = refused(stack, tmp_path, declaration, p__csv="key,sex\nB,F")
    assert "column 'key' holds no value of column 'id' of t.csv; the first is 'B' here and 'a' there" in said
    assert "column 'key' is missing" in refused(stack, tmp_path, declaration, p__csv="keys,sex\nb,F")


def test_a_joined_table_that_is_absent_leaves_blanks(tmp_path):
    declaration = PLAIN.replace('path = "file"', 'path = "file"\nsex = "sex"') + JOINED
    assert stack(tmp_path, declaration, t__csv=ROWS).frame["sex"].tolist() == ["", ""]
    needed = declaration.replace("optional = true\n", "")
    assert "no p.csv" in refused(stack, tmp_path, needed)
