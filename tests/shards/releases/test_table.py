"""Any one table as a release: columns by name, what is not known is said, mistakes are named."""

import cv2
import numpy as np
import pandas as pd
import pytest

from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import attach
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.table import Columns, label_table, open_table
from shards.renditions.rendition import Size
from tests.releases import smooth_image, write_table

COLUMNS = Columns("image", "Edema,Mass", "file", "patient", "exam", "view", "fold")
HEADER = "image,file,patient,exam,view,fold,Edema,Mass,age"
ROWS = (
    "a,a.png,1,10,AP,train,1,0,50",
    "b,deep/b.png,1,10,Lateral,train,0.0,-1,50",
    "c,./c.png,2,20,LAO,validate,,1,60",
    "d,d.png,3.0,30,,test,1.0,0,70",
)


@pytest.fixture
def root(tmp_path):
    """images/ with four images, and table.csv beside it."""
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png", "c.png", "d.png"):
        cv2.imwrite(str(tmp_path / "images" / name), smooth_image(np.random.default_rng(0), 40, 40))
    write_table(tmp_path / "table.csv", HEADER, *ROWS)
    return tmp_path


def opened(root, columns=COLUMNS, file="table.csv"):
    return open_table(root / file, columns, root / "images")


def refused(root, columns=COLUMNS, file="table.csv"):
    with pytest.raises(UserError) as error:
        opened(root, columns, file)
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(**columns):
    return Columns(**{**vars(COLUMNS), **columns})


# ---------------------------------------------------------------- what is read


def test_every_column_goes_where_its_option_says(root):
    release = opened(root)
    assert (release.name, release.inputs) == ("table", (root / "table.csv",))
    assert release.images.to_dict("list") == {
        "image_id": ["a", "b", "c", "d"],
        "study_id": ["10", "10", "20", "30"],
        "subject_id": ["1", "1", "2", "3"],
        "view": ["frontal", "lateral", "other", "other"],
        "view_position": ["AP", "Lateral", "LAO", ""],
        "path": ["a.png", "deep/b.png", "c.png", "d.png"],
    }
    (labels,) = release.labels
    assert (labels.name, labels.findings) == ("table", ("Edema", "Mass"))
    assert labels.table["split"].tolist() == ["train", "train", "dev", "test"]
    values = labels.table[["Edema", "Mass"]].astype(object)
    assert values.where(values.notna(), None).to_numpy().tolist() == [[1, 0], [0, -1], [None, 1], [1, 0]]
    assert release.notes == ("view other: 2 images, 'LAO' (1), '' (1)",) and labels.notes == ()


def test_a_parquet_table_with_its_own_types_is_read_alike(root):
    table = pd.read_csv(root / "table.csv").assign(patient=[1, 1, 2, 3], Edema=[True, False, None, True])
    table["Mass"] = table["Mass"].astype("Int8")
    table["exam"] = table["exam"].astype("category")
    table.to_parquet(root / "table.parquet")
    found, expected = opened(root, file="table.parquet"), opened(root)
    pd.testing.assert_frame_equal(found.images, expected.images, check_dtype=False)
    pd.testing.assert_frame_equal(found.labels[0].table, expected.labels[0].table, check_dtype=False)


def test_all_others_are_the_columns_that_are_not_named(root):
    write_table(root / "table.csv", ",image,file,x,y,", "0,a,a.png,1,0,", "1,b,d.png,0,1,")
    release = opened(root, Columns("image", "all others", "file"))
    assert release.labels[0].findings == ("x", "y")
    assert "column 'age' holds '50'" in refused_findings(root)


def refused_findings(root):
    write_table(root / "table.csv", HEADER, *ROWS)
    return refused(root, changed(findings="all others"))


def test_a_finding_with_a_comma_in_its_name_is_quoted_as_in_a_csv(root):
    write_table(root / "table.csv", 'image,file,"Mass, large",Edema', "a,a.png,1,0")
    assert opened(root, Columns("image", '"Mass, large", Edema', "file")).labels[0].findings == ("Mass, large", "Edema")


def test_without_a_subject_column_every_image_is_its_own_patient_and_that_is_said(root):
    release = opened(root, Columns("image", "Edema", "file"))
    assert release.images["subject_id"].tolist() == release.images["study_id"].tolist() == ["a", "b", "c", "d"]
    assert release.notes == (
        "no --subject-column: every image counts as a patient of its own, so folds and splits cannot keep a patient's "
        "images on one side, and scores may be of known patients",
        "no --study-column: every image counts as a study of its own",
        "no --view-column: every view is other",
    )
    assert release.labels[0].notes == ("no --split-column: every image is in the split train",)
    assert set(release.labels[0].table["split"]) == {"train"}


def test_with_studies_and_without_subjects_a_study_is_a_patient(root):
    release = opened(root, changed(subject=None))
    assert release.images["subject_id"].tolist() == ["10", "10", "20", "30"]
    assert "every study counts as a patient of its own" in release.notes[0]


def test_absolute_paths_below_the_folder_are_taken_as_relative(root):
    write_table(root / "table.csv", "image,file,Edema", f"a,{root}/images/a.png,1", f"b,{root}/images/deep/b.png,0")
    assert opened(root, Columns("image", "Edema", "file")).images["path"].tolist() == ["a.png", "deep/b.png"]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image_id": "id"}, "column 'id' (--id-column) is missing; found image, file, patient"),
        ({"path": "path"}, "column 'path' (--path-column) is missing"),
        ({"subject": "person"}, "column 'person' (--subject-column) is missing"),
        ({"split": "set"}, "column 'set' (--split-column) is missing"),
        ({"findings": "Edema,Hernia"}, "column 'Hernia' (--findings) is missing; found image"),
        ({"findings": "Edema,Edema"}, "column 'Edema' is named twice"),
        ({"findings": "Edema,view"}, "column 'view' is named twice; a column is a finding or something else, once"),
        ({"findings": " , "}, "name at least one column, or write 'all others'"),
        ({"view": "age"}, "column 'age' (--view-column) has no view; it holds '50', known are frontal, ap"),
        ({"split": "view"}, "column 'view' holds ''; known are train"),
        ({"image_id": "exam"}, "is in more than one row"),
    ],
    ids=str,
)
def test_a_wrong_column_is_named_with_its_option(root, columns, said):
    assert said in refused(root, changed(**columns))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("d,d.png", "d,", "column 'file' is blank in line 5; every image needs its file"),
        ("d,d.png", ",d.png", "column 'image' is blank in line 5"),
        ("3.0,30", "1.9E+38,30", "column 'patient' holds '1.9E+38', a number that has lost digits"),
        ("1.0,0,70", "yes,0,70", "column 'Edema' holds 'yes'; a finding is 1, 0, -1 or blank"),
        ("validate", "holdout", "column 'fold' holds 'holdout'; known are train"),
        ("d,d.png", "d,../secret.png", "the path '../secret.png' leaves the release's folder"),
        ("d,d.png", "d,/etc/passwd", "the path '/etc/passwd' leaves the release's folder"),
        ("d,d.png", "a,d.png", "image 'a' is in more than one row"),
    ],
)
def test_a_wrong_value_is_named_with_its_column(root, old, new, said):
    head, found, tail = (root / "table.csv").read_text().rpartition(old)
    assert found
    (root / "table.csv").write_text(head + new + tail)
    message = refused(root)
    assert said in message and message.startswith(str(root / "table.csv"))


def test_paths_that_start_elsewhere_are_refused_before_packing_and_a_single_absent_file_is_a_reject(root):
    with pytest.raises(
        UserError, match="none of the first 4 files of column 'file' is in .*, for example 'a.png'; give"
    ):
        open_table(root / "table.csv", COLUMNS, root / "images" / "deep")
    with pytest.raises(UserError, match="nowhere: no such folder; give the folder that the paths start from"):
        open_table(root / "table.csv", COLUMNS, root / "nowhere")
    (root / "images" / "a.png").unlink()
    assert len(opened(root).images) == 4


def test_a_table_that_is_absent_empty_or_damaged_is_named(root):
    assert "absent.csv: no such file; give the table with --table" in refused(root, file="absent.csv")
    assert "absent.parquet: no such file; give the table with --table" in refused(root, file="absent.parquet")
    (root / "bad.parquet").write_bytes(b"PAR1 and then nothing")
    assert "bad.parquet: not a readable table" in refused(root, file="bad.parquet")
    write_table(root / "table.csv", HEADER)
    assert "a header and no image" in refused(root)


def test_a_study_number_that_each_patient_has_is_a_study_of_each(root):
    write_table(root / "table.csv", HEADER, *(row.replace(",10,", ",1,").replace(",20,", ",1,") for row in ROWS))
    release = opened(root)
    assert release.images["study_id"].tolist() == ["1_1", "1_1", "2_1", "3_30"]
    assert "column 'exam' has studies of the same id in two patients: theirs are PATIENT_STUDY" in release.notes


def test_patients_that_differ_in_case_or_zeros_are_two_and_that_is_said(root):
    write_table(root / "table.csv", "image,file,who,Edema", "a,a.png,P1,1", "b,deep/b.png,p1,0", "c,c.png,7,1")
    release = opened(root, Columns("image", "Edema", "file", subject="who"))
    assert release.images["subject_id"].tolist() == ["P1", "p1", "7"]
    assert "column 'who' holds 'P1' and 'p1', which count as two patients, as do 1 that differ only" in release.notes[0]


@pytest.mark.parametrize("word", ["NA", "#N/A", "NULL", "-", "unknown", "<NA>"])
def test_patients_without_an_id_are_not_one_patient(root, word):
    write_table(root / "table.csv", HEADER, *(row.replace(",2,20,", f",{word},20,") for row in ROWS))
    said = refused(root)
    assert f"column 'patient' holds {word!r} in line 4, a word for a missing or a logical value" in said


def test_two_images_whose_ids_would_be_one_are_refused(root):
    write_table(root / "table.csv", "image,file,Edema", "1,a.png,1", "1.0,c.png,0")
    assert "column 'image' holds '1' and '1.0', which would be one id" in refused(
        root, Columns("image", "Edema", "file")
    )


# ---------------------------------------------------------------- packing and labels


@pytest.fixture
def packed(root):
    pack(opened(root), root / "pack", PackOptions(sizes=(Size(32),)))
    return root / "pack"


def test_the_columns_are_part_of_the_datasets_identity(root, packed):
    options = PackOptions(sizes=(Size(32),))
    info = PackedDataset.open(packed).info
    assert (info["release"], info["options"]["--subject-column"]) == ("table", "patient")
    assert pack(opened(root), packed, options).already_finished
    with pytest.raises(UserError, match="another option '--subject-column': patient there, None now"):
        pack(opened(root, changed(subject=None)), packed, options)


def test_labels_of_another_table_are_attached_by_id(root, packed):
    write_table(root / "second.csv", "key,Hernia,part", "d,1,train", "a,0,test", "z,1,train")
    labels = label_table(root / "second.csv", Columns("key", "Hernia", split="part"))
    ((attached, new),) = attach(packed, [], tables=[labels])
    assert (attached.name, attached.elsewhere, new) == ("second", 1, True)
    dataset = PackedDataset.open(packed)
    found = dataset.labels("second")
    by_image = dict(zip(dataset.catalog["image_id"], zip(found.split, found.values[:, 0], strict=True), strict=True))
    assert by_image["d"] == ("train", 1) and by_image["a"] == ("test", 0) and by_image["b"] == (None, found.BLANK)
    assert attach(packed, [], tables=[labels])[0][1] is False
    write_table(root / "strange.csv", "key,Hernia", "z,1")
    with pytest.raises(UserError, match="strange.csv: none of its 1 image is in the release"):
        attach(packed, [], tables=[label_table(root / "strange.csv", Columns("key", "Hernia"))])


@pytest.mark.parametrize("written", ["{}.png", "x/{}.jpg", "00{}", "p{}", "{}.DCM"])
def test_labels_whose_ids_are_written_otherwise_are_told(root, written):
    write_table(root / "table.csv", "image,file,Edema", "1,a.png,1", "2,c.png,0", "3,d.png,0")
    pack(opened(root, Columns("image", "Edema", "file")), root / "pack", PackOptions(sizes=(Size(32),)))
    ids = [written.format(number) for number in (1, 2, 3)]
    named = Columns("key", "x")
    write_table(root / "second.csv", "key,x", *(f"{each},1" for each in ids))
    with pytest.raises(UserError, match="second.csv: none of its 3 images is in the release") as error:
        attach(root / "pack", [], tables=[label_table(root / "second.csv", named)])
    assert f"{ids[0]!r} is not in the release, but '1' is, and so of 3 images in all" in str(error.value)
    write_table(root / "second.csv", "key,x", "1,1", *(f"{each},1" for each in ids[1:]))
    ((attached, _),) = attach(root / "pack", [], tables=[label_table(root / "second.csv", named)])
    assert attached.elsewhere == 2
    assert f"second.csv: {ids[1]!r} is not in the release, but '2' is, and so of 2 images in all" in attached.notes[-1]


def test_labels_of_some_of_the_images_need_no_note(root, packed):
    write_table(root / "second.csv", "key,x", "a,1", "z9,1")
    ((attached, _),) = attach(packed, [], tables=[label_table(root / "second.csv", Columns("key", "x"))])
    assert attached.notes == ("no --split-column: every image is in the split train",)


def test_a_patient_in_two_splits_of_attached_labels_is_refused(root, packed):
    write_table(root / "second.csv", "key,Hernia,part", "a,1,train", "b,0,test")
    labels = label_table(root / "second.csv", Columns("key", "Hernia", split="part"))
    with pytest.raises(UserError, match=r"labels 'second': 1, such as that of the images 'b' \(test\) and 'a' \(train"):
        attach(packed, [], tables=[labels])


def test_a_folder_of_labels_is_refused_with_the_way_to_give_a_table(root, packed):
    with pytest.raises(UserError, match="packed from a table of their own.*--table FILE --id-column"):
        attach(packed, [root])


def test_patients_that_are_dates_are_said(root):
    write_table(root / "table.csv", "image,file,who,Edema", "a,a.png,12.03.2020,1", "b,deep/b.png,12.03.2020,0")
    release = opened(root, Columns("image", "Edema", "file", subject="who"))
    assert "column 'who' holds dates, of 2 images: one patient for each date" in release.notes
