"""Paths as tables write them: every spelling of a file is one text below the source, or is named."""

import unicodedata

import cv2
import numpy as np
import pandas as pd
import pytest

from shards.errors import UserError
from shards.releases.columns import Columns
from shards.releases.paths import relative_paths
from shards.releases.table import open_table
from tests.releases import smooth_image, write_table

NAME = "im\u00e1genes/ni\u00f1o.png"  # composed


@pytest.fixture
def root(tmp_path):
    """data/ with four images, and data_link to it."""
    for name in ("img/1.png", "img/2.png", "img/a b.png", "3.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), smooth_image(np.random.default_rng(0), 40, 40))
    (tmp_path / "data_link").symlink_to(tmp_path / "data")
    return tmp_path / "data"


def relative(root, *texts):
    return relative_paths(pd.Series(texts, dtype="str"), root)[0].tolist()


def opened(root, *paths):
    file = write_table(root.parent / "t.csv", "id,file,x", *(f'{n},"{path}",1' for n, path in enumerate(paths)))
    return open_table(file, Columns("id", "x", "file"), root)


def refused(root, *paths):
    with pytest.raises(UserError) as error:
        opened(root, *paths)
    assert str(error.value).startswith(f"{root.parent / 't.csv'}: ") and "\n" not in str(error.value)
    return str(error.value)


SPELLINGS = (
    *("img/1.png", "./img/1.png", "././img//1.png", "img/./1.png", "img/../img/1.png", " img/1.png ", "img\\1.png"),
    *("{root}/img/1.png", "{root}//img/1.png", "{root}/./img/1.png", "{root}/img/../img/1.png", "/{root}/img/1.png"),
    *("{link}/img/1.png", "{link}/img/../img/1.png", "file://{root}/img/1.png", "file://localhost{link}/img/1.png"),
    *("{root}/../data/img/1.png", "img\\..\\img\\1.png", ".\\img\\1.png", "C:\\data\\img\\1.png", "d:/x/img/1.png"),
    *("\\\\server\\share\\img\\1.png", "img/%31.png", "img%2F1.png", "file:{root}/img/%31.png"),
)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("source", ["{root}", "{link}", "{root}/img/..", "{root}/."])
def test_every_spelling_of_a_file_is_one_path(root, spelling, source):
    places = {"root": root, "link": f"{root}_link"}
    source = type(root)(source.format(**places))
    assert relative(source, spelling.format(**places)) == ["img/1.png"]


def test_two_spellings_of_a_file_in_two_rows_are_found(root):
    for other in ("img//1.png", f"{root}_link/img/1.png", "3.png/../img/1.png", "img\\1.png"):
        said = refused(root, "img/1.png", "3.png", other)
        assert "the image file 'img/1.png' is in more than one row (line 2 and line 4; 1 row too many" in said


def test_plain_paths_stay_and_nothing_is_said(root):
    paths = ["img/1.png", "img/a b.png", "..a/b..png", "a.b/c"]
    assert relative_paths(pd.Series(paths, dtype="str"), root)[1] == () and relative(root, *paths) == paths


def test_windows_paths_are_converted_only_if_no_such_file_is_there_and_that_is_said(root):
    release = opened(root, "img\\1.png", "img\\2.png", "3.png")
    assert release.images["path"].tolist() == ["img/1.png", "img/2.png", "3.png"]
    assert "2 paths are read with slashes: 'img\\\\1.png' is 'img/1.png'" in release.notes
    drive = opened(root, "C:\\data\\img\\1.png", "3.png")
    assert "1 paths are read with slashes: 'C:\\\\data\\\\img\\\\1.png' is 'img/1.png'" in drive.notes
    (root / "img\\1.png").write_bytes((root / "3.png").read_bytes())
    assert relative(root, "img\\1.png") == ["img\\1.png"]
    assert relative(root, "img\\1.png", "img\\2.png") == ["img\\1.png", "img/2.png"]


def test_windows_paths_of_no_file_name_what_to_write(root):
    for path in ("C:\\data\\other\\1.png", "other\\1.png"):
        assert "write paths with / and relative to --source" in refused(root, path)


def test_escapes_of_an_address_are_read_only_if_the_file_is_there_then(root):
    assert relative(root, "img/a%20b.png", "img/1.png") == ["img/a b.png", "img/1.png"]
    (root / "img" / "100%25.png").write_bytes(b"")
    assert relative(root, "img/100%25.png") == ["img/100%25.png"]
    assert relative(root, "img/100%25.png", "img/a%20b.png") == ["img/100%25.png", "img/a b.png"]


@pytest.mark.parametrize(("disk", "table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_with_accents_are_found_in_the_form_of_the_disk(root, disk, table):
    there, written = (unicodedata.normalize(form, NAME) for form in (disk, table))
    (root / there).parent.mkdir()
    (root / there).write_bytes((root / "3.png").read_bytes())
    release = opened(root, written, "3.png")
    assert release.images["path"].tolist() == [there, "3.png"]
    assert f"1 paths are read in the Unicode form {disk}, as the files are named" in release.notes[0]
    assert "the image file" in refused(root, written, there)


def test_dots_behind_a_link_are_what_the_disk_makes_of_them(root):
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "1.png").write_bytes(b"")
    (root / "link").symlink_to(root / "deep" / "er")
    assert relative(root, "link/../1.png", "img/../3.png") == ["deep/1.png", "3.png"]


@pytest.mark.parametrize(
    "path", ["../data.png", "/etc/passwd", "img/../../x.png", "C:/nothing/x.png", "img/", "img/..", "%2e%2e/x.png", "."]
)
def test_what_is_outside_or_no_file_is_refused_in_fitting_words(root, path):
    (root.parent / "x.png").write_bytes(b"")
    said = refused(root, "3.png", path)
    assert "leaves the release's folder" in said and "or names no file" in said and str(root) in said
    assert "give as --source a folder that all images are in" in said


def test_a_link_out_of_the_release_is_left_to_the_reading(root):
    (root / "out.png").symlink_to(root.parent / "t.csv")
    assert relative(root, "out.png", "./out.png") == ["out.png", "out.png"]


@pytest.mark.parametrize(
    ("path", "there"),
    [("img/1.PNG", "img/1.png"), ("IMG/1.png", "img"), ("img/1.jpg", "img/1.png"), ("img/1", "img/1.png")],
)
def test_a_file_that_is_absent_names_what_is_there(root, path, there):
    said = refused(root, path)
    assert f"for example {path!r}; {there!r} is there; give the folder that the paths start from" in said


def test_a_folder_is_no_image(root):
    assert "holds 'img', which is a folder" in refused(root, "img")


@pytest.mark.parametrize("path", ["x" * 5000, "a\x00b", "img/1.png/x", "%00", "C:\\" + "x\\" * 3000])
def test_what_no_disk_has_is_one_line(root, path):
    refused(root, path)
