"""Label releases of a declared release: what a value, a row, a list or a mask says of an image."""

import shutil

import pytest

from shards.releases.open import open_release
from tests.shards.releases.declared.layout import labels_of, numbers_of, packed, write_images
from tests.shards.releases.declared.own import PLAIN, opened, refused, write

IMAGES = "id,file,fold\na,1.png,train\nb,2.png,train\nc,3.png,test"
FILE = ("1.png",)


def declared(labels: str, split: bool = True, table: str = "") -> str:
    """The declaration with a label release, and perhaps a table of its own in l.csv."""
    fields = PLAIN.replace('path = "file"', 'path = "file"\nsplit = "fold"') if split else PLAIN
    own = f'\n[[tables]]\nas = "labels"\nfile = ["l.csv"]\n{table}\n'
    text = f'\n[[labels]]\nname = "l"\n{labels}\n'
    return fields + (own if "labels" in labels else "") + text


def read(tmp_path, declaration, join_rows=None, **tables):
    if not (tmp_path / "release" / "t.csv").exists():
        tables.setdefault("t__csv", IMAGES)
    release = opened(tmp_path, declaration, FILE, join_rows, **tables)
    return release, labels_of(release)


# ---------------------------------------------------------------- columns


def test_values_of_columns(tmp_path):
    text = "id,file,fold,Edema,Effusion,note\na,1.png,train,1.0,YES,x\nb,2.png,Train,-1,false,\nc,3.png,test,,0,"
    declaration = declared('findings = ["Edema", "Effusion"]\nrename = { Effusion = "Pleural Effusion" }')
    release, found = read(tmp_path, declaration, t__csv=text)
    assert release.labels[0].findings == ("Edema", "Pleural Effusion")
    assert found == {"a": ("train", "11"), "b": ("train", "?0"), "c": ("test", ".0")}
    assert read(tmp_path, declaration + 'blank = "negative"')[1]["c"] == ("test", "00")
    others = declared('findings = "others"\nwords = { x = 1, "" = 0 }\nrename = { note = "Note" }')
    release, found = read(tmp_path, others)
    assert release.labels[0].findings == ("Edema", "Effusion", "Note") and found["a"] == ("train", "111")


def test_wrong_values_and_columns_are_named(tmp_path):
    text = "id,file,fold,Edema\na,1.png,train,1\nb,2.png,train,maybe\nc,3.png,test,"
    declaration = declared('findings = ["Edema"]')
    said = refused(read, tmp_path, declaration, t__csv=text)
    assert "t.csv: column 'Edema' holds 'maybe'; a finding is 1, 0, -1 or blank" in said
    said = refused(read, tmp_path, declared('findings = ["Edemas"]'), t__csv=text)
    assert "column 'Edemas' is missing; found id, file, fold, Edema; near it is 'Edema'" in said
    said = refused(read, tmp_path, declared('findings = ["Edema", "fold"]\nrename = { fold = "Edema" }'))
    assert "two columns are the finding 'Edema'" in said


def test_without_a_split_every_image_is_train_and_that_is_said(tmp_path):
    text = IMAGES.replace("fold", "Edema").replace("train", "1").replace("test", "0")
    release, found = read(tmp_path, declared('findings = ["Edema"]', split=False), t__csv=text)
    assert found == {"a": ("train", "1"), "b": ("train", "1"), "c": ("train", "0")}
    assert "no split: every image is in the split train" in release.labels[0].notes


READINGS = """id,file,fold,rad,Edema
a,1.png,train,R1,1
a,1.png,train,R2,0
a,1.png,train,R3,0
b,2.png,train,R1,1
b,2.png,train,R2,1
b,2.png,train,R3,-1
c,3.png,test,,1
"""


@pytest.mark.parametrize(
    ("how", "a", "b"),
    [("any", "1", "1"), ("majority", "0", "1"), ("mean", "0", "1"), ("2", "0", "1"), ("3", "0", "?"), ("9", "0", "?")],
)
def test_several_readers_are_joined_as_is_declared_or_asked(tmp_path, how, a, b):
    readers = 'findings = ["Edema"]\nreaders = { column = "rad", join = "%s" }'
    release, found = read(tmp_path, declared(readers % how), t__csv=READINGS)
    assert found == {"a": ("train", a), "b": ("train", b), "c": ("test", "1")}
    assert f"2 images with several readings: they differ on 2 (100.0%), and are joined by {how}" in " ".join(
        release.labels[0].notes
    )
    release, asked = read(tmp_path, declared(readers % "any" if how != "any" else readers % "2"), join_rows=how)
    assert asked == found and release.labels[0].name == f"l-{how}" and release.reading["--join-rows"] == how


def test_half_of_the_readers_is_a_mean_of_one(tmp_path):
    text = "id,file,fold,Edema\na,1.png,train,1\na,1.png,train,0\nb,2.png,train,-1\nb,2.png,train,0\nc,3.png,test,-1"
    declaration = declared('findings = ["Edema"]\nreaders = { join = "mean" }')
    assert read(tmp_path, declaration, t__csv=text)[1] == {"a": ("train", "1"), "b": ("train", "0"), "c": ("test", "?")}


def test_several_rows_without_readers_are_refused(tmp_path):
    said = refused(read, tmp_path, declared('findings = ["Edema"]'), t__csv=READINGS)
    assert (
        "t.csv: 'a' is there again; keep one row of each, declare `readers`, or give --join-rows. It is in line 3"
        in said
    )
    assert read(tmp_path, declared('findings = ["Edema"]'), join_rows="any")[1]["a"] == ("train", "1")


# ---------------------------------------------------------------- tables of their own


def test_labels_of_studies_repeat_on_their_images(tmp_path):
    images = "id,file,fold,exam\na,1.png,train,x\nb,2.png,train,x\nc,3.png,test,y"
    labels = 'table = "labels"\nfindings = ["Edema"]\nkey = { here = "exam", images = "%s" }'
    declaration = declared(labels % "study_id").replace('path = "file"', 'path = "file"\nstudy_id = "exam"')
    for each in (declaration, declared(labels % "exam")):
        _, found = read(tmp_path, each, t__csv=images, l__csv="exam,Edema\nx,1\nz,0")
        assert found == {"a": ("train", "1"), "b": ("train", "1"), "c": ("test", ".")}
    said = refused(read, tmp_path, declaration, l__csv="exam,Edema\nx,1\n,0")
    assert "l.csv: column 'exam' is blank in line 3" in said
    said = refused(read, tmp_path, declared(labels % "exam"))
    assert "l.csv: the key of labels is blank in line 3" in said
    numbers = images.replace(",x", ",7").replace(",y", ",8")
    _, found = read(tmp_path, declaration, t__csv=numbers, l__csv="exam,Edema\n7.0,1")
    assert found["a"] == ("train", "1")  # an id is the same id, however a data frame wrote it
    said = refused(read, tmp_path, declaration, l__csv="exam,Edema\nX1,1")
    assert "l.csv: none of its 1 image is in the release" in said


def test_images_without_a_row_are_unknown_with_their_split_or_have_no_labels(tmp_path):
    own = 'table = "labels"\nfindings = ["Edema"]'
    labels = "id,Edema\nb,1\nz,0"
    release, found = read(tmp_path, declared(own), l__csv=labels)
    assert found == {"a": ("train", "."), "b": ("train", "1"), "c": ("test", ".")}
    assert release.labels[0].elsewhere == 1
    assert read(tmp_path, declared(own, split=False))[1] == {"b": ("train", "1")}
    of_labels = declared(own + '\nsplit = "set"', split=False)
    assert read(tmp_path, of_labels, l__csv="id,Edema,set\nb,1,VAL\nc,0,test")[1] == {
        "b": ("dev", "1"),
        "c": ("test", "0"),
    }


def test_optional_labels_that_are_absent_are_left_out(tmp_path):
    declaration = declared('table = "labels"\nfindings = ["Edema"]', table="optional = true")
    release = opened(tmp_path, declaration, FILE, t__csv=IMAGES)
    assert release.labels == () and {"no l.csv", "labels left out, as their tables are not there: l"} <= set(
        release.notes
    )


def test_images_without_what_the_labels_need_have_none(tmp_path):
    text = "id,file,fold,report,Edema\na,1.png,train,x,1\nb,2.png,train, ,0\nc,3.png,test,y,0"
    release, found = read(tmp_path, declared('findings = ["Edema"]\nneeds = "report"'), t__csv=text)
    assert found == {"a": ("train", "1"), "c": ("test", "0")}
    assert "1 image without labels: report is blank" in release.labels[0].notes


# ---------------------------------------------------------------- long, list, text

BOXES = """id,class,rad
a,Mass,R1
a,Mass,R2
a,Edema,R1
a,No finding,R3
b,No finding,R1
b,Nodule/Mass,R2
"""
LONG = (
    'table = "labels"\nkind = "long"\nfinding = "class"\nnone = ["No finding"]\nrename = { "Nodule/Mass" = "Mass" }\n'
)


def test_a_long_table_becomes_a_row_an_image(tmp_path):
    declaration = declared(LONG + 'findings = ["Mass", "Edema"]')
    release, found = read(tmp_path, declaration, l__csv=BOXES)
    assert found == {"a": ("train", "11"), "b": ("train", "10"), "c": ("test", "..")}
    readers = declaration + 'readers = { column = "rad", join = "majority" }'
    release, found = read(tmp_path, readers)
    assert found == {"a": ("train", "10"), "b": ("train", "?0"), "c": ("test", "..")}
    assert "2 images with several readings: they differ on 2" in release.labels[0].notes[0]
    assert read(tmp_path, declared(LONG + 'findings = "all"'))[0].labels[0].findings == ("Edema", "Mass")
    kept = declared(LONG + 'findings = ["Mass", "Edema", "No finding"]')
    assert read(tmp_path, kept)[1]["a"] == ("train", "111")
    unknown = declared(LONG + 'findings = ["Mass", "Edema"]\nabsent = "unknown"')
    assert read(tmp_path, unknown)[1] == {"a": ("train", "11"), "b": ("train", "1."), "c": ("test", "..")}
    said = refused(read, tmp_path, declared(LONG + 'findings = ["Mass", "Oedema"]'))
    assert (
        "l.csv: the finding 'Edema' is not declared; did you mean Oedema? known are Mass, Oedema; it is in line 4"
        in said
    )


def test_a_long_table_may_have_values(tmp_path):
    declaration = declared(
        'table = "labels"\nkind = "long"\nfinding = "class"\nvalue = "there"\nfindings = ["Mass", "Edema"]'
    )
    text = "id,class,there\na,Mass,0\na,Mass,1\na,Edema,-1\nb,Mass,0\nb,Edema,"
    assert read(tmp_path, declaration, l__csv=text)[1] == {
        "a": ("train", "1?"),
        "b": ("train", "0."),
        "c": ("test", ".."),
    }
    assert "column 'there' holds '2'" in refused(read, tmp_path, declaration, l__csv=text.replace("Mass,1", "Mass,2"))


@pytest.mark.parametrize(
    ("separator", "values"),
    [
        ("|", ("Mass| Edema", "normal", "")),
        ("list", ("['Mass', ' Edema']", '["normal"]', "")),
    ],
)
def test_lists_in_a_column(tmp_path, separator, values):
    text = "id,file,fold,labels\n" + "".join(
        f'{image},{number}.png,{fold},"{value.replace(chr(34), chr(34) * 2)}"\n'
        for number, (image, fold, value) in enumerate(zip("abc", ("train", "train", "test"), values, strict=True), 1)
    )
    kind = f'kind = "list"\ncolumn = "labels"\nseparator = "{separator}"\nnone = ["normal"]\nfindings = '
    declaration = declared(kind + '"all"')
    release, found = read(tmp_path, declaration, t__csv=text)
    assert release.labels[0].findings == ("Edema", "Mass")
    assert found == {"a": ("train", "11"), "b": ("train", "00"), "c": ("test", "..")}
    assert read(tmp_path, declaration + 'blank = "negative"')[1]["c"] == ("test", "00")
    few = declaration.replace('"all"', '["Mass", "Edema"]\nunlabelled = ["Edema"]')
    release, found = read(tmp_path, few)
    assert found == {"b": ("train", "00"), "c": ("test", "..")}
    assert "1 image without labels: Edema" in release.labels[0].notes
    if separator == "list":
        said = refused(read, tmp_path, declaration, t__csv=text.replace('"[""normal""]"', "normal"))
        assert "column 'labels' holds 'normal', which is no list, in line 3" in said


def test_a_text_says_the_finding(tmp_path):
    text = "id,file,fold,finding\na,1.png,train,COVID-19\nb,2.png,train,No finding\nc,3.png,test,Both"
    words = 'words = { "COVID-19" = "COVID", Both = ["COVID", "Edema"], "No finding" = [] }\n'
    kind = f'kind = "text"\ncolumn = "finding"\n{words}findings = '
    release, found = read(tmp_path, declared(kind + '"all"'), t__csv=text)
    assert release.labels[0].findings == ("COVID", "Edema")
    assert found == {"a": ("train", "10"), "b": ("train", "00"), "c": ("test", "11")}
    said = refused(read, tmp_path, declared(kind + '["COVID"]'))
    assert "the finding 'Edema' is not declared" in said and said.endswith("it is in line 4")
    again = text + "\na,1.png,train,COVID-19"
    assert "'a' is there again" in refused(read, tmp_path, declared(kind + '"all"'), t__csv=again)
    assert read(tmp_path, declared(kind + '"all"\nreaders = { join = "any" }'))[1] == found


# ---------------------------------------------------------------- masks


def test_a_mask_of_run_lengths_is_the_finding(tmp_path):
    rows = ("a,1.png,train,-1", "b,2.png,train, 557374 2 1015 8", "c,3.png,test,", "b,2.png,train,12 3")
    text = "\n".join(("id,file,fold, EncodedPixels", *rows))
    kind = 'kind = "rle"\ncolumn = "EncodedPixels"\nnone = ["-1"]\nfindings = '
    _, found = read(tmp_path, declared(kind + '["Pneumothorax"]'), t__csv=text)
    assert found == {"a": ("train", "0"), "b": ("train", "1"), "c": ("test", ".")}
    said = refused(read, tmp_path, declared(kind + '["Pneumothorax"]'), t__csv=text.replace("12 3", "yes"))
    assert "column 'EncodedPixels' holds 'yes', which is no run-length mask, in line 5" in said
    assert "kind 'rle' is of one finding" in refused(read, tmp_path, declared(kind + '["A", "B"]'))


# ---------------------------------------------------------------- from elsewhere


def test_labels_may_lie_in_another_folder(tmp_path):
    own = 'table = "labels"\nfindings = ["Edema"]'
    declaration = declared(own, table="optional = true")
    opened(tmp_path, declaration, FILE, t__csv=IMAGES)
    more = tmp_path / "more"
    more.mkdir()
    said = refused(open_release, tmp_path / "release", [more], str(tmp_path / "mine.toml"))
    assert "more: no label table; give a folder that holds t.csv or l.csv" in said
    (more / "l.csv").write_text("id,Edema\na,1\n")
    release = open_release(tmp_path / "release", [more], str(tmp_path / "mine.toml"))
    assert labels_of(release) == {"a": ("train", "1"), "b": ("train", "."), "c": ("test", ".")}


# ---------------------------------------------------------------- files as a table

FOLDERS = """
name = "folders"
title = "Classes as folders"

[[tables]]
as = "images"
file = ["train/*/*.jpeg", "train/*/*.png"]
paths = true
split = "train"

[[tables]]
as = "images"
file = ["test/*/*.jpeg"]
paths = true
split = "test"

[images]
image_id = { column = "path", match = '([^/]+)[.][a-z]+$' }
subject_id = { column = "path", match = '(p[0-9]+)_[^/]*$' }
path = "path"

[[labels]]
name = "folders"
kind = "text"
column = { column = "path", match = '([^/]+)/[^/]+$' }
findings = ["Pneumonia"]
words = { NORMAL = [], PNEUMONIA = "Pneumonia" }
"""


def test_classes_as_folders_need_no_table(tmp_path):
    release = write(tmp_path, FOLDERS)
    write_images(release, "train/NORMAL/p1_1.jpeg", "train/PNEUMONIA/p2_1.png", "test/PNEUMONIA/p3_1.jpeg")
    name = str(tmp_path / "mine.toml")
    found = open_release(release, (), name)
    assert labels_of(found) == {"p1_1": ("train", "0"), "p2_1": ("train", "1"), "p3_1": ("test", "1")}
    assert found.images["subject_id"].tolist() == ["p1", "p2", "p3"] and found.inputs == ()
    dataset, pixels = packed(found, tmp_path / "pack")
    assert numbers_of(pixels) == {"p1_1": 0, "p2_1": 1, "p3_1": 2} and dataset.label_names == ["folders"]
    write_images(release, "train/OTHER/p4_1.png")
    said = refused(open_release, release, (), name)
    assert "the finding 'OTHER' is not declared; known are Pneumonia; it is in line 3" in said
    (release / "train/OTHER").rename(release / "train/normal2")
    (release / "train/normal2/p4_1.png").rename(release / "train/NORMAL/p4_1.png")
    said = refused(packed, open_release(release, (), name), tmp_path / "pack")
    assert "was packed with another option 'files'" in said
    for each in ("train", "test"):
        shutil.rmtree(release / each)
    assert "release: no train/*/*.jpeg or train/*/*.png" in refused(open_release, release, (), name)
