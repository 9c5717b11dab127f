"""Names that end up in a packed dataset: read back as they are, made safe and said, or refused before any image is."""

import json
import os

import cv2
import numpy as np
import pytest

from shards.dataset.description import DATASET, LONGEST, seal
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import attach, detach
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.verify import verify
from shards.releases.table import Columns, label_table, open_table
from shards.renditions.rendition import Size
from tests.releases import smooth_image

COLUMNS = Columns("key", "all others", "file")


@pytest.fixture
def images(tmp_path):
    for name in "ab":
        (tmp_path / "img").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "img" / f"{name}.png"), smooth_image(np.random.default_rng(0), 40, 40))
    return tmp_path / "img"


def packed(images, name="t.csv", header="key,file,Edema", keys=("a", "b"), columns=COLUMNS, out="pack"):
    findings = header.count(",") - 1
    rows = [f'"{key}",{file}.png' + ",1" * findings for key, file in zip(keys, "ab", strict=True)]
    file = images.parent / name
    file.write_text("\n".join([header, *rows]) + "\n")
    release = open_table(file, columns, images)
    pack(release, images.parent / out, PackOptions((Size(32),), shard_images=4))
    assert not verify(images.parent / out).problems
    return release.labels[0], PackedDataset.open(images.parent / out)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("labels\u00a02024.csv", "labels 2024"),
        ("a\u200bb.csv", "a b"),
        ("a\nb\tc.csv", "a b c"),
        ("\u202egnp.csv", "gnp"),
        ("cafe\u0301.csv", "caf\u00e9"),
        (" a .csv", "a"),
        (".hidden.csv", "hidden"),
        ("a\x1b[2Jb.csv", "a [2Jb"),
        ("<b>&'\".csv", "<b>&'\""),
        ("\U0001f600 é.csv", "\U0001f600 é"),
        ("x.csv.gz.csv", "x.csv.gz"),
        ("T.TSV", "T"),
        ("n" * LONGEST + ".csv", "n" * LONGEST),
    ],
)
def test_a_label_release_has_a_name_that_is_read_back(images, file, name):
    labels, dataset = packed(images, file)
    assert labels.name == name and dataset.label_names == [name]
    assert dataset.labels(name).values.tolist() == [[1], [1]]
    said = [note for note in labels.notes if note.startswith("labels are called")]
    assert [repr(name) in note and ascii(file) in note for note in said] == [True] * (name != file[: -len(".csv")])
    detach(dataset.root, name)
    attach(dataset.root, (), tables=[label_table(images.parent / file, Columns("key", "Edema"))])
    assert PackedDataset.open(dataset.root).label_names == [name] and not verify(dataset.root).problems


@pytest.mark.parametrize("file", [".csv", "...csv", " .csv", "\u00a0.csv", "n" * 236 + ".csv", "é" * 101 + ".csv"])
def test_a_file_that_gives_no_name_is_refused_before_anything_is_written(images, file):
    with pytest.raises(UserError, match="cannot be the name of labels; rename the file"):
        packed(images, file)
    assert not (images.parent / "pack").exists()
    packed(images)
    with pytest.raises(UserError, match="cannot be the name of labels; rename the file"):
        label_table(images.parent / file, Columns("key", "Edema"))


def test_a_file_name_that_is_not_utf_8_is_refused(images):
    with pytest.raises(UserError, match="its name is not UTF-8, so it cannot be written down; rename the file"):
        packed(images, os.fsdecode(b"caf\xe9.csv"))
    assert not (images.parent / "pack").exists()


def test_names_that_differ_in_case_are_no_two_label_releases(images):
    _, dataset = packed(images, "labels.csv")
    (images.parent / "Labels.csv").write_bytes((images.parent / "labels.csv").read_bytes())
    with pytest.raises(UserError, match="Labels.csv: labels 'labels' and 'Labels' differ in upper and lower case"):
        attach(dataset.root, (), tables=[label_table(images.parent / "Labels.csv", Columns("key", "Edema"))])
    assert PackedDataset.open(dataset.root).label_names == ["labels"]


@pytest.mark.parametrize("name", ["labels\u00a02024", "a\u200bb", ".a", "a\tb", "\u00ad", "", "n" * 236])
def test_a_dataset_of_an_older_version_with_any_name_opens(images, name):
    """They took any file's name, and were unreadable once they were finished."""
    _, dataset = packed(images)
    info = json.loads((dataset.root / DATASET).read_text())
    info["labels"] = {name: info["labels"]["t"]}
    info["default_labels"] = name
    (dataset.root / "labels" / "t.parquet").rename(dataset.root / "labels" / f"{name}.parquet")
    (dataset.root / DATASET).write_text(json.dumps(seal(info)))
    old = PackedDataset.open(dataset.root)
    assert old.label_names == [name] and not verify(dataset.root).problems
    assert old.labels(name).findings == ("Edema",)


@pytest.mark.parametrize("name", ["../../x", "a/b", "a\x1b[2J", "a\0b", "a\r", "\x9b2J"])
def test_a_description_with_a_name_that_leaves_its_folder_or_steers_a_terminal_is_refused(images, name):
    _, dataset = packed(images)
    info = json.loads((dataset.root / DATASET).read_text())
    info["labels"][name] = info["labels"]["t"]
    (dataset.root / DATASET).write_text(json.dumps(seal(info)))
    with pytest.raises(UserError, match="dataset.json: not readable"):
        PackedDataset.open(dataset.root)


def test_what_is_written_is_read_first(images, monkeypatch):
    """A release whose labels got a name that its reader refuses ends before its folder holds a shard."""
    labels, _ = packed(images)
    release = open_table(images.parent / "t.csv", COLUMNS, images)
    object.__setattr__(release.labels[0], "name", "a/b")
    with pytest.raises(UserError, match="'a/b' cannot be the name of labels"):
        pack(release, images.parent / "other", PackOptions((Size(32),)))
    object.__setattr__(release.labels[0], "name", "t")
    release.reading["--id-column"] = "\udce9"
    with pytest.raises(UserError, match="dataset.json: a name in it is not UTF-8"):
        pack(release, images.parent / "other", PackOptions((Size(32),)))
    assert not list((images.parent / "other").glob("**/*.tar"))


FINDINGS = ["__key__", "jpg", "json", "subject_id", "=1+1", "<b>", "a'b", "EDEMA", "É", "\U0001f600", "x\u00a0y", "AP"]


def test_findings_and_ids_of_any_name_are_read_back(images):
    keys = ("__key__", "@cmd|' /C calc'!A0..%é\U0001f600")
    header = ",".join(["key", "file", "Edema", *FINDINGS])
    _, dataset = packed(images, header=header, keys=keys)
    assert dataset.labels().findings == ("Edema", *FINDINGS)
    assert sorted(dataset.catalog["image_id"]) == sorted(keys)
    assert dataset.labels().values.tolist() == [[1] * (len(FINDINGS) + 1)] * 2


@pytest.mark.parametrize("name", ["row", "split", "image_id", '"a\nb"', "study_id", "view"])
def test_findings_named_as_what_stands_beside_them_are_refused(images, name):
    with pytest.raises(UserError, match="cannot be a finding's name; rename the column"):
        packed(images, header=f"key,file,{name}")


def test_columns_of_no_finding_and_blank_findings_are_said(images):
    file = images.parent / "t.csv"
    file.write_text("Unnamed: 0,,key,file,Edema,Mass\n0,0,a,a.png,1,\n1,1,b,b.png,0,\n")
    assert label_table(file, COLUMNS).notes == (
        "no --split-column: every image is in the split train",
        "without a name, so no findings: 2 columns, Unnamed: 0, Unnamed: 1",
        "1 finding is blank for every image: Mass",
    )
