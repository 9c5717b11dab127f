"""Several rows of one image: refused with both lines, or joined to one image whose labels are right."""

import cv2
import numpy as np
import pytest

from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import attach
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.columns import Columns
from shards.releases.table import label_table, open_table
from shards.renditions.rendition import Size
from tests.releases import smooth_image, write_table

HEADER = "row,file,patient,exam,view,fold,Edema,Mass"
# three readers of 0.png, two of 1.png, one of 2.png
ROWS = (
    *("10,0.png,A,s1,AP,train,1,0", "11,1.png,B,s2,PA,train,-1,", "12,0.png,A,s1,AP,Train,0,0"),
    *("13,./0.png,A,s1,AP,train,0,-1", "14,1.png,B,s2,PA,train,0,", "15,2.png,C,s3,L,test,,1"),
)
JOINED = {"any": [[1, -1], [-1, None], [None, 1]], "majority": [[0, 0], [-1, None], [None, 1]]}


@pytest.fixture
def root(tmp_path):
    for name in range(3):
        cv2.imwrite(str(tmp_path / f"{name}.png"), smooth_image(np.random.default_rng(name), 40, 40))
    write_table(tmp_path / "t.csv", HEADER, *ROWS)
    return tmp_path


def columns(**changed):
    given = {"path": "file", "subject": "patient", "study": "exam", "view": "view", "split": "fold", "join_rows": "any"}
    return Columns(**{"image_id": "row", "findings": "Edema,Mass", **given, **changed})


def values(labels):
    found = labels.table[list(labels.findings)].astype(object)
    return found.where(found.notna(), None).to_numpy().tolist()


def refused(opening, *arguments):
    with pytest.raises(UserError) as error:
        opening(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("how", JOINED)
def test_rows_of_a_file_are_one_image_with_their_common_labels(root, how):
    release = open_table(root / "t.csv", columns(join_rows=how), root)
    assert release.images.to_dict("list") == {
        "image_id": ["10", "11", "15"],
        "study_id": ["s1", "s2", "s3"],
        "subject_id": ["A", "B", "C"],
        "view": ["frontal", "frontal", "lateral"],
        "view_position": ["AP", "PA", "L"],
        "path": ["0.png", "1.png", "2.png"],
    }
    (labels,) = release.labels
    assert labels.table.index.tolist() == ["10", "11", "15"] and values(labels) == JOINED[how]
    assert labels.table["split"].tolist() == ["train", "train", "test"]
    note = f"6 rows are of 3 images (--join-rows {how}); their ids differ, and an image has that of its first row"
    assert note in release.notes


@pytest.mark.parametrize(
    ("said", "any_of", "majority_of"),
    [
        ("1,1,0", 1, 1),
        ("1,0,0", 1, 0),
        ("1,0", 1, -1),
        ("-1,0,0", -1, 0),
        ("-1,-1,0", -1, -1),
        ("1,-1", 1, -1),
        ("1,0,-1", 1, -1),
        ("1,,", 1, 1),
        ("0,NA,", 0, 0),
        (",,", None, None),
        ("1,1,0,0", 1, -1),
        ("0.0,1.0,1", 1, 1),
    ],
)
def test_what_several_readers_say_together(root, said, any_of, majority_of):
    write_table(root / "t.csv", "id,x", *(f"a,{each}" for each in said.split(",")), "b,0")
    for how, expected in (("any", any_of), ("majority", majority_of)):
        assert values(label_table(root / "t.csv", Columns("id", "x", join_rows=how))) == [[expected], [0]]


def test_without_the_option_both_lines_the_file_and_the_option_are_named(root):
    said = refused(open_table, root / "t.csv", columns(join_rows=None), root)
    assert said.startswith(f"{root / 't.csv'}: the image file '0.png' is in more than one row (line 2 and line 4; ")
    assert "3 rows too many in all" in said and "--join-rows any or --join-rows majority" in said


def test_labels_alone_are_joined_by_id_or_refused_alike(root):
    write_table(root / "t.csv", "id,x,part", "a,1,train", "b,0,dev", "a,0,train")
    named = Columns("id", "x", split="part")
    said = refused(label_table, root / "t.csv", named)
    assert "image 'a' is in more than one row (line 2 and line 4; " in said and "--join-rows any" in said
    labels = label_table(root / "t.csv", Columns("id", "x", split="part", join_rows="any"))
    assert labels.table.index.tolist() == ["a", "b"] and values(labels) == [[1], [0]]
    assert labels.notes == ("3 rows are of 2 images (--join-rows any)",)


@pytest.mark.parametrize(
    ("old", "new", "column", "both"),
    [
        ("13,./0.png,A", "13,./0.png,B", "patient", "'A' and 'B'"),
        ("A,s1,AP,Train", "A,s9,AP,Train", "exam", "'s1' and 's9'"),
        ("A,s1,AP,Train", "A,s1,PA,Train", "view", "'AP' and 'PA'"),
        ("AP,Train", "AP,val", "fold", "'train' and 'dev'"),
    ],
)
def test_rows_of_one_file_that_disagree_on_the_image_are_refused_with_both_values(root, old, new, column, both):
    path = root / "t.csv"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    said = refused(open_table, path, columns(), root)
    line = 5 if old.startswith("13") else 4
    assert f"line 2 and line {line} are of one image, and column {column!r} holds {both}; correct one" in said


def test_an_id_of_two_files_is_no_join(root):
    write_table(root / "t.csv", HEADER, *ROWS, "15,3.png,D,s4,L,test,0,0")
    assert "image '15' is in more than one row" in refused(open_table, root / "t.csv", columns(), root)


def test_an_unknown_join_names_those_known():
    assert "choose one of any, majority" in refused(lambda: columns(join_rows="all"))


def test_joined_images_are_packed_once_and_the_join_is_part_of_the_identity(root):
    options = PackOptions(sizes=(Size(32),))
    summary = pack(open_table(root / "t.csv", columns(), root), root.parent / "pack", options)
    dataset = PackedDataset.open(root.parent / "pack")
    assert (summary.packed, len(dataset.catalog)) == (3, 3)
    assert dataset.info["options"]["--join-rows"] == "any"
    labels = dataset.labels("t")
    by_id = dict(zip(dataset.catalog["image_id"], labels.values.tolist(), strict=True))
    assert by_id == {"10": [1, -1], "11": [-1, labels.BLANK], "15": [labels.BLANK, 1]}
    said = refused(pack, open_table(root / "t.csv", columns(join_rows="majority"), root), root.parent / "pack", options)
    assert "another option '--join-rows': any there, majority now" in said
    (root.parent / "two.csv").write_text("key,x\n10,0\n10,1\n11,0\n")
    more = label_table(root.parent / "two.csv", Columns("key", "x", join_rows="any"))
    ((attached, new),) = attach(root.parent / "pack", [], tables=[more])
    assert new and values(attached) == [[1], [0]]
