"""Fields of images: ids out of paths, templates, words, views, people and paths."""

import numpy as np
import pandas as pd
import pytest

from shards.releases.groups import views
from tests.shards.releases.declared.layout import images_of, labels_of, packed, write_images
from tests.shards.releases.declared.own import PLAIN, opened, refused, write

FILES = ("p1/s1/a.png", "p1/s2/b.png", "p2/s3/c.png")
PATHS = "file,id\n" + "".join(f"data/{path},{number}\n" for number, path in enumerate(FILES))
BELOW = "{ column = 'file', match = '^data/(.+)' }"
LABELS = '\n[[labels]]\nname = "l"\nfindings = ["Edema"]\n'


def fields(*lines: str, path: str = '"file"') -> str:
    """The declaration with other fields of images."""
    return PLAIN.replace('image_id = "id"\npath = "file"', "\n".join([*lines, f"path = {path}"]))


def more(*lines: str) -> str:
    return fields('image_id = "id"', *lines)


# ---------------------------------------------------------------- texts


def test_ids_come_out_of_paths_and_of_each_other(tmp_path):
    declaration = fields(
        "image_id = { column = 'file', match = '([^/]+)\\.png$' }",
        "study_id = { template = '{subject_id}_{id:0>3}' }",
        "subject_id = { column = 'file', match = 'p[0-9]+' }",
        path=BELOW,
    )
    release = opened(tmp_path, declaration, FILES, t__csv=PATHS)
    assert images_of(release, "study_id", "subject_id", "path") == {
        "a": ("p1_000", "p1", FILES[0]),
        "b": ("p1_001", "p1", FILES[1]),
        "c": ("p2_002", "p2", FILES[2]),
    }
    said = refused(opened, tmp_path, fields("image_id = { column = 'file', match = '([ab])\\.png$' }", path=BELOW))
    assert said == f"{tmp_path}/release/t.csv: 'file' holds 'data/{FILES[2]}', which does not match, in line 4"


def test_a_template_may_cut_a_part_and_is_blank_where_a_part_is(tmp_path):
    declaration = fields("image_id = 'id'", path='{ template = "f/{id:.2}/{image_id}.png" }')
    release = opened(tmp_path, declaration, ("f/ab/abc.png",), t__csv="id,s\nabc,1\n")
    assert images_of(release, "path") == {"abc": ("f/ab/abc.png",)}
    text = "id,s,file\nabc,1,x\nd,,y\n"
    said = refused(opened, tmp_path, more("study_id = { template = '{id}-{s}' }"), t__csv=text)
    assert "t.csv: column 'study_id' is blank in line 3" in said
    assert "column 'exam' is missing" in refused(opened, tmp_path, more("study_id = { template = '{exam}' }"))


def test_words_are_looked_up_in_any_case_and_others_are_refused_or_otherwise(tmp_path):
    text = "id,file,fold,Edema\na,1.png,Training,1\nb,2.png, one ,0\nc,3.png,ONE,"
    split = "split = { column = 'fold', words = { Training = 'train', one = 'test' } }"
    release = opened(tmp_path, more(split) + LABELS, ("1.png",), t__csv=text)
    assert labels_of(release) == {"a": ("train", "1"), "b": ("test", "0"), "c": ("test", ".")}
    said = refused(opened, tmp_path, more(split), t__csv=text.replace("ONE", "two"))
    assert "'fold' holds 'two', which is none of 'Training', 'one', in line 4" in said
    other = split.replace("} }", "}, otherwise = 'dev' }")
    release = opened(tmp_path, more(other) + LABELS, t__csv=text.replace("ONE", "two").replace("Training", ""))
    assert labels_of(release) == {"a": ("dev", "1"), "b": ("test", "0"), "c": ("dev", ".")}
    said = refused(opened, tmp_path, more("split = 'fold'"), t__csv=text.replace("ONE", "three"))
    assert "t.csv: column 'split' holds 'one'; known are train, training" in said and said.endswith("(first in line 3)")


def test_the_first_that_is_not_blank_is_taken(tmp_path):
    text = "id,file,v,w\n1,p_frontal.png,AP,Frontal\n2,p_lateral.png,,Lateral\n3,q_lateral.png,,"
    first = "view_position = { first = ['v', 'absent', 'w', { column = 'file', match = '(lateral|frontal)' }] }"
    release = opened(tmp_path, more(first), ("p_frontal.png",), t__csv=text)
    assert images_of(release, "view_position", "view") == {
        "1": ("AP", "frontal"),
        "2": ("Lateral", "lateral"),
        "3": ("lateral", "lateral"),
    }


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("1.90E+38", "1.91E+38"), "t2.csv: column 'patient' holds '1.90E+38', a number that has lost digits"),
        (("a", "NA"), "t2.csv: column 'patient' holds 'NA' in line 3, a word for a missing or a logical value"),
        (("a", ""), "t2.csv: column 'patient' is blank in line 3"),
        (("7.0", "b"), "column 'patient' holds '7' and '7.0', which would be one id"),
    ],
)
def test_ids_keep_every_digit_or_name_the_file_and_the_line(tmp_path, values, said):
    """The second of two files that are stacked; "7" is in the first."""
    declaration = more('subject_id = "patient"').replace("t.csv", "t1.csv")
    declaration += '[[tables]]\nas = "images"\nfile = ["t2.csv"]\n'
    rows = "".join(f"{number},{number}.png,{value}\n" for number, value in enumerate(values))
    tables = {"t1__csv": "id,file,patient\n9,9.png,7\n", "t2__csv": f"id,file,patient\n{rows}"}
    assert said in refused(opened, tmp_path, declaration, ("9.png",), **tables)


def test_leading_zeros_stay(tmp_path):
    release = opened(tmp_path, more('subject_id = "p"'), ("1.png",), t__csv="id,file,p\n1,1.png,007\n2,2.png,7")
    assert release.images["subject_id"].tolist() == ["007", "7"]
    assert any("'007' and '7', which count as two patients" in note for note in release.notes)


def test_an_id_or_path_whose_letters_were_guessed_is_refused(tmp_path):
    release = write(tmp_path, images=("1.png",))
    for row, called in ((b"\xe9,1.png", "'id'"), (b"1,\xe9.png", "'file'")):
        (release / "t.csv").write_bytes(b"id,file\n" + row)
        assert f"{called} holds '\xe9" in refused(opened, tmp_path)
    assert "is no UTF-8: save it again in UTF-8. It is in line 2" in refused(opened, tmp_path)


def test_studies_and_patients_that_are_not_known_are_the_images_own(tmp_path):
    release = opened(tmp_path, more(), ("1.png",), t__csv="id,file\na,1.png\nb,2.png")
    assert release.images["study_id"].tolist() == release.images["subject_id"].tolist() == ["a", "b"]
    assert [note.split(":")[0] for note in release.notes] == ["no subject_id", "no study_id", "no view_position"]


def test_a_study_of_two_patients_is_two_studies(tmp_path):
    declaration = more('subject_id = "p"', 'study_id = "s"')
    release = opened(tmp_path, declaration, ("1.png",), t__csv="id,file,p,s\na,1.png,x,1\nb,2.png,y,1")
    assert release.images["study_id"].tolist() == ["x_1", "y_1"]
    assert any("theirs are PATIENT_STUDY" in note for note in release.notes)


def test_rows_of_one_image_are_one_and_must_agree(tmp_path):
    text = "id,file,p\na,1.png,x\nb,2.png,y\na,1.png,x"
    release = opened(tmp_path, more('subject_id = "p"'), ("1.png",), t__csv=text)
    assert images_of(release, "subject_id") == {"a": ("x",), "b": ("y",)} and "3 rows of 2 images" in release.notes
    said = refused(opened, tmp_path, more('subject_id = "p"'), t__csv=text.replace("a,1.png,x\nb", "a,1.png,z\nb"))
    assert "line 4 and line 2 are of 'a', and subject_id is 'x' in the first of them and 'z' in the other" in said


# ---------------------------------------------------------------- views and people


@pytest.mark.parametrize(
    ("words", "view"),
    [
        ("PA|ap|AP Supine|AP_horizontal|ANTERO-POSTERIOR|POSTERO_ANTERIOR|posteroanterior|Frontal", "frontal"),
        ("L|LL|RL|LATERAL|Lat|Left Lateral|left_lateral", "lateral"),
        ("LAO|PA LLD|LT-DECUB|AP AXIAL||swimmers", "other"),
    ],
)
def test_view_words(words, view):
    position = np.array(words.split("|"), dtype=object)
    assert views(pd.Series(position)).tolist() == [view] * len(position)


def test_words_of_a_declaration_win(tmp_path):
    declaration = more('view_position = "v"') + '\n[views]\nfrontal = ["ll"]\nlateral = ["rlo"]\n'
    release = opened(
        tmp_path, declaration, ("1.png",), t__csv="id,file,v\n1,1.png,LL\n2,2.png,R-LO\n3,3.png,x\n4,4.png,x"
    )
    assert release.images["view"].tolist() == ["frontal", "lateral", "other", "other"]
    assert "view other: 2 images, 'x' (2)" in release.notes


def test_sex_age_and_manufacturer_are_text_and_say_what_is_not_known(tmp_path):
    text = "id,file,s,a,m\n1,1.png,Female,045Y,Agfa\n2,2.png,m,85+,\n3,3.png,O,412,Philips\n4,4.png,,18M,x"
    release = opened(tmp_path, more("sex = 's'", "age = 'a'", "manufacturer = 'm'"), ("1.png",), t__csv=text)
    assert images_of(release, "sex", "age", "manufacturer") == {
        "1": ("F", "45", "Agfa"),
        "2": ("M", "85", ""),
        "3": ("", "", "Philips"),
        "4": ("", "1.5", "x"),
    }
    assert "sex is not known of 1 image: 'O' (1)" in release.notes
    assert "age is not known of 1 image: '412' (1)" in release.notes
    assert "1 age is given as a bin, as '85+': its lower bound is taken" in release.notes


def test_monochrome1_is_inverted_and_other_words_are_refused(tmp_path):
    text = "id,file,p\n1,1.png,MONOCHROME1\n2,2.png,monochrome2\n3,3.png,\n4,4.png,1"
    release = opened(tmp_path, more('inverted = "p"'), ("1.png",), t__csv=text)
    assert release.images["inverted"].tolist() == [True, False, False, True]
    assert "2 images are MONOCHROME1 and inverted" in release.notes
    said = refused(opened, tmp_path, more('inverted = "p"'), t__csv=text.replace("MONOCHROME1", "RGB"))
    assert "holds 'RGB', which is not 1, 0, MONOCHROME1 or MONOCHROME2: give it `words`, in line 2" in said


# ---------------------------------------------------------------- paths


def test_the_path_under_which_files_are_is_taken(tmp_path):
    declaration = fields('image_id = "id"', path='["file", { template = "png/{id}.png" }]')
    text = "id,file\na,x/1.dcm\nb,x/2.dcm"
    release = opened(tmp_path, declaration, ("png/a.png", "png/b.png"), t__csv=text)
    assert images_of(release, "path") == {"a": ("png/a.png",), "b": ("png/b.png",)}
    assert "paths: png/{id}.png" in release.notes
    (release.root / "png/a.png").unlink()
    (release.root / "png/b.png").unlink()
    said = refused(opened, tmp_path, declaration)
    assert f"none of the files that were looked for is in {release.root}, such as 'x/1.dcm', 'png/a.png'" in said
    said = refused(opened, tmp_path, fields('image_id = "id"'), t__csv="id,file\na,1.png\nb,")
    assert "'file' is blank, and every image needs its file, in line 3" in said


def test_half_of_the_files_is_enough_wherever_they_are(tmp_path):
    rows = "".join(f"i{number},{number}.png\n" for number in range(300))
    release = opened(tmp_path, PLAIN, tuple(f"{number}.png" for number in range(150, 300)), t__csv=f"id,file\n{rows}")
    assert len(release.images) == 300


def test_a_path_never_leaves_the_release(tmp_path):
    (tmp_path / "out.png").touch()
    said = refused(opened, tmp_path, PLAIN, t__csv="id,file\na,../out.png")
    assert "the path '../out.png' leaves the release's folder" in said


def search(depth: int, template: str = "{image_id}.*") -> str:
    return PLAIN.replace('path = "file"', f'search = "{template}"\ndepth = {depth}')


def test_files_are_found_by_their_names_with_any_suffix(tmp_path):
    places = ("u/v/w/1.2.dcm", "a.DICOM", "b", "x/c.png", "x/d.txt")
    release = opened(tmp_path, search(3), places, t__csv="id\n1.2\na\nb\nc\nd")
    assert release.images["path"].tolist() == ["u/v/w/1.2.dcm", "a.DICOM", "b", "x/c.png", "d.*"]
    release = opened(tmp_path, search(2))
    assert release.images["path"].tolist()[0] == "1.2.*"
    release = opened(tmp_path, search(2, "{image_id}.png"))
    assert release.images["path"].tolist()[3] == "x/c.png"


def test_two_files_of_one_name_are_refused_if_it_is_wanted(tmp_path):
    places = ("x/a.dcm", "y/a.png", "x/z.png", "y/z.png")
    said = refused(opened, tmp_path, search(2), places, t__csv="id\na")
    assert "image 'a.*' is in it twice, as x/a.dcm and as y/a.png" in said
    assert opened(tmp_path, search(2, "{image_id}.dcm")).images["path"].tolist() == ["x/a.dcm"]
    assert "none of the 1 image of t.csv is in it or up to 1 folders below" in refused(
        opened, tmp_path, search(1, "q{image_id}.dcm")
    )


# ---------------------------------------------------------------- packed


def test_people_are_in_the_catalog_and_null_where_they_are_not_known(tmp_path):
    text = "id,file,s,a,m\na,1.png,Female,18M,\nb,2.png,,,"
    declaration = more("sex = 's'", "age = 'a'", "manufacturer = 'm'")
    write_images(write(tmp_path, declaration, t__csv=text), "1.png", "2.png")
    dataset, _ = packed(opened(tmp_path, declaration), tmp_path / "pack")
    assert [dataset.has(name) for name in ("sex", "age", "manufacturer")] == [True, True, False]
    rows = np.argsort(dataset.catalog["image_id"].to_numpy())
    found = dataset.of_rows(rows, "sex", "age")
    assert found["sex"].fillna("-").tolist() == ["F", "-"]
    assert found["age"].iloc[0] == 1.5 and np.isnan(found["age"].iloc[1]) and found["age"].dtype == np.float32
    assert dataset.arrow("age")["age"].null_count == 1
    assert dataset.info["options"]["declaration"]


def test_another_declaration_is_another_dataset(tmp_path):
    text = "id,file,s\na,1.png,F\nb,2.png,M"
    write_images(write(tmp_path, more(), t__csv=text), "1.png", "2.png")
    packed(opened(tmp_path, more()), tmp_path / "pack")
    said = refused(packed, opened(tmp_path, more("sex = 's'")), tmp_path / "pack")
    assert "was packed with another option 'declaration'" in said
