"""Declared releases on the command line: listed, printed, checked, packed, and their labels attached."""

import pytest

from tests.cli.cli import call
from tests.shards.releases.declared.layout import write_images, write_text

pytestmark = pytest.mark.slow

OWN = """
name = "mine"
title = "Mine"
notes = ["not for tuning"]

[[tables]]
as = "images"
file = ["t.csv"]

[images]
image_id = "id"
path = "file"
subject_id = "patient"
view_position = "view"
split = "fold"
sex = "sex"

[[labels]]
name = "mine"
findings = ["Edema", "Mass"]
readers = { column = "reader", join = "majority" }
"""
TABLE = """
id;file;patient;view;fold;sex;reader;Edema;Mass
a;a.png;p1;PA;train;F;1;1;0
a;a.png;p1;PA;train;F;2;1;1
a;a.png;p1;PA;train;F;3;0;0
b;b.png;p2;L;test;;1;;-1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    write_text(root / "release" / "t.csv", TABLE)
    write_images(root / "release", "a.png", "b.png")
    (root / "mine.toml").write_text(OWN)
    return root


def said(*arguments, folder, code=0):
    done = call(*arguments, cwd=folder)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def test_all_releases_are_listed_in_a_line_each(folder):
    lines = said("releases", folder=folder).splitlines()
    names = [line.split()[0] for line in lines]
    assert {"mimic-cxr-jpg", "chestx-ray14", "padchest", "folder", "chexpert"} <= set(names)
    assert len(set(names)) == len(names)
    (chexpert,) = (line for line in lines if line.startswith("chexpert "))
    assert "CheXpert" in chexpert and "train.csv" in chexpert


def test_a_declaration_is_printed_and_is_one(folder):
    text = said("releases", "chexpert", folder=folder)
    (folder / "copy.toml").write_text(text)
    assert 'name = "chexpert"' in text
    assert "no train.csv" in said("releases", "--check", "copy.toml", "--source", "release", folder=folder, code=1)
    text = said("releases", "padchest", folder=folder)
    assert "read by code" in text and "PADCHEST_chest_x_ray_images_labels_160K" in text
    assert "did you mean chexpert" in said("releases", "chexprt", folder=folder, code=1)


def test_a_check_says_what_would_be_read_and_writes_nothing(folder):
    before = sorted(folder.rglob("*"))
    text = said("releases", "--check", "mine.toml", "--source", "release", folder=folder)
    for line in (
        "mine: 2 images in release",
        "  not for tuning",
        "table t.csv: 4 rows, separated by semicolons",
        "sex: 2 values, blank for 1",
        "views: 1 frontal, 1 lateral",
        "files looked for: 100% of them are there",
        "labels mine: 2 images; splits: 1 train, 1 test",
        "  1 image with several readings: they differ on 1 (100.0%), and are joined by majority (--join-rows)",
        "Edema    1  0   0      1",
        "Mass     0  1   1      0",
    ):
        assert line in text
    assert text.splitlines()[-2].startswith("a,") and "a.png" in text.splitlines()[-2]
    assert sorted(folder.rglob("*")) == before
    assert "takes --source DIR" in said("releases", "--check", "mine.toml", folder=folder, code=2)
    assert "--source is the folder for" in said("releases", "--source", "release", folder=folder, code=2)


def test_a_release_of_ones_own_is_packed_and_gets_more_labels(folder):
    small = ["--sizes", "32", "--jobs", "1", "--out", "pack"]
    text = said("shard", "--source", "release", "--release", "mine.toml", *small, folder=folder)
    assert "2 of 2 images packed" in text and "not for tuning" in text
    again = ["label", "pack", "--labels", "release", "--join-rows", "any"]
    assert "no release 'mine'" in said(*again, folder=folder, code=1)
    text = said(*again, "--release", "mine.toml", folder=folder)
    assert "labels mine-any: attached" in text and "mine (the default): 2 findings; 1 train, 0 dev, 1 test" in text
    assert "already finished" in said("shard", "--source", "release", "--release", "mine.toml", *small, folder=folder)
    wrong = said(
        "shard", "--source", "release", "--release", "mine.toml", *small, "--join-rows", "any", folder=folder, code=1
    )
    assert "was packed with another option '--join-rows'" in wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shard", "--source", "release", "--release", "chexprt"], "no release 'chexprt'; did you mean chexpert"),
        (["shard", "--source", "release", "--release", "no.toml"], "no.toml: cannot be read"),
        (
            ["shard", "--source", "release", "--release", "folder", "--join-rows", "any"],
            "folder has no rows of several",
        ),
        (["shard", "--source", "release"], "`cxrdali releases` lists all; for any other give --table FILE"),
    ],
)
def test_mistakes_are_answered_in_one_line(folder, arguments, words):
    assert words in said(*arguments, "--out", "nothing", folder=folder, code=1)
