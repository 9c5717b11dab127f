"""Files, folders, patterns and lists as images with ids of their own."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrdali.predict.image_files import find
from shards.errors import UserError
from tests.heard import heard
from tests.releases import jpeg, smooth_image

IMAGE = jpeg(smooth_image(np.random.default_rng(0), 90, 80))


@pytest.fixture
def films(tmp_path, monkeypatch):
    """a/1.jpg, a/1.png, a/2.jpg, b/1.jpg, b/deep/3.dcm, and what is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "a/1.png", "a/2.JPG", "b/1.jpg", "b/deep/3.dcm"):
        path = Path("films") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGE)
    for name in ("a/notes.txt", "b/.hidden.jpg", "b/._1.jpg"):
        (Path("films") / name).write_text("no image")
    return Path("films")


def found(*given):
    return {str(each.path): each.image_id for each in find([str(each) for each in given])}


def test_a_folder_is_walked_and_others_are_counted(films):
    said: list[str] = []
    with heard(said):
        made = found("films")
    assert made == {
        "films/a/1.jpg": "a/1.jpg", "films/a/1.png": "a/1.png", "films/a/2.JPG": "a/2",
        "films/b/1.jpg": "b/1", "films/b/deep/3.dcm": "b/deep/3",
    }  # fmt: skip
    assert list(made) == sorted(made)
    assert said == ["note: left out, as hidden or no images by name or first bytes: 3 files, first 'films/a/notes.txt'"]


def test_first_bytes_tell_where_a_name_does_not(films):
    (films / "1.2.840.1").write_bytes(IMAGE)
    (films / "1.2.840.2").write_bytes(IMAGE)
    (films / "1.2.840.3").write_bytes(b"neither")
    (films / "scan.tif").write_bytes(b"II*\0")  # to be rejected by name, not left out
    made = found(films)
    assert made["films/1.2.840.1"] == "1.2.840.1" and made["films/1.2.840.2"] == "1.2.840.2"
    assert "films/1.2.840.3" not in made and made["films/scan.tif"] == "scan.tif"


def test_links_are_followed_once(films):
    (films / "again").symlink_to(films.resolve() / "a")
    (films / "b" / "round").symlink_to(films.resolve())
    (films / "b" / "link.jpg").symlink_to(films.resolve() / "a" / "1.jpg")
    made = found(films)
    assert "films/b/link.jpg" in made and len(made) == 6


def test_a_file_a_pattern_and_one_given_twice(films):
    assert found("films/a/1.jpg") == {"films/a/1.jpg": "1"}
    assert found("films/*/1.*") == {"films/a/1.jpg": "a/1.jpg", "films/a/1.png": "a/1.png", "films/b/1.jpg": "b/1"}
    assert found("films/**/*.dcm") == {"films/b/deep/3.dcm": "b/deep/3"}
    assert found("films/[b]") == {"films/b/1.jpg": "b/1", "films/b/deep/3.dcm": "b/deep/3"}
    said: list[str] = []
    with heard(said):
        made = found("films/a/2.JPG", "./films/a/2.JPG", films.resolve() / "a" / "2.JPG", "films/b")
    assert list(made.values()) == ["2", "1", "deep/3"] and said[0] == "note: 2 files given more than once: judged once"


def test_a_file_whose_name_looks_like_a_pattern(films):
    (films / "a[1].jpg").write_bytes(IMAGE)
    assert found("films/a[1].jpg") == {"films/a[1].jpg": "a[1]"}


def test_equal_names_of_two_folders_get_their_whole_paths(films):
    made = found("films/a/1.jpg", "films/b/1.jpg")
    assert made == {"films/a/1.jpg": "films/a/1.jpg", "films/b/1.jpg": "films/b/1.jpg"}


@pytest.mark.parametrize("name", ["list.csv", "list.parquet", "list.csv.gz", "list.tsv"])
def test_a_list_with_ids(films, name):
    table = pd.DataFrame(
        {"image_id": ["x", "y", "x2"], "path": ["a/1.jpg", "b/1.jpg", "a/1.jpg"], "age": ["1", "2", "3"]}
    )
    writers = {
        "list.parquet": table.to_parquet,
        "list.tsv": lambda path, index: table.to_csv(path, sep="\t", index=index),
    }
    writers.get(name, table.to_csv)(films / name, index=False)
    made = find([str(films / name)])
    assert [(str(each.path), each.image_id) for each in made] == [
        ("films/a/1.jpg", "x"), ("films/b/1.jpg", "y"), ("films/a/1.jpg", "x2"),
    ]  # fmt: skip


def test_lists_of_one_column_with_or_without_a_header(films):
    for text in ("Path\na/1.jpg\nb/gone.jpg\n", "file\na/1.jpg\nb/gone.jpg\n", "a/1.jpg\nb/gone.jpg\n"):
        (films / "list.txt").write_text(text)
        assert found("films/list.txt") == {"films/a/1.jpg": "a/1", "films/b/gone.jpg": "b/gone"}
    here = films.resolve() / "a" / "1.jpg"
    (films / "list.txt").write_text(f"path\n{here}\n")
    assert found("films/list.txt") == {str(here): str(here).removesuffix(".jpg")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,file\n1,a/1.jpg\n", "column 'path' is missing; found name, file"),
        ("path\n", "has no path"),
        ("path,image_id\na/1.jpg,x\n,y\n", "the path in row 2 is blank"),
        ("path,image_id\na/1.jpg,x\nb/1.jpg,x\n", "image_id 'x' is in two rows"),
        ("path,image_id\na/1.jpg,\n", "image_id '' is blank"),
    ],
)
def test_lists_that_are_refused(films, text, said):
    (films / "list.csv").write_text(text)
    with pytest.raises(UserError, match=f"films/list.csv: .*{said}"):
        find(["films/list.csv"])


def test_what_is_not_there(films):
    (films / "empty").mkdir()
    (films / "empty" / "x.txt").write_text("x")
    for given, said in (
        ("films/gone.jpg", "no such file or folder"),
        ("films/*.gif", "matches no image"),
        ("films/empty", "no image is in this folder, but 1 other file"),
    ):
        with pytest.raises(UserError) as caught:
            find([given])
        assert str(caught.value).startswith(f"{given}: ") and said in str(caught.value)


def test_two_lists_that_give_an_id_twice(films):
    for name, path in (("one.csv", "a/1.jpg"), ("two.csv", "b/1.jpg")):
        (films / name).write_text(f"path,image_id\n{path},x\n")
    with pytest.raises(UserError, match="image_id 'x': is of two images"):
        find(["films/one.csv", "films/two.csv"])


def test_a_name_that_is_no_utf8(films):
    (Path(os.fsdecode(b"films/caf\xe9.jpg"))).write_bytes(IMAGE)
    made = find(["films"])
    assert r"caf\udce9" in [each.image_id for each in made]


def test_a_packed_list(films):
    (films / "list.txt.gz").write_bytes(gzip.compress(b"path\na/1.jpg\n"))
    assert found("films/list.txt.gz") == {"films/a/1.jpg": "a/1"}
