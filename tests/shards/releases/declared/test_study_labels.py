"""Labels of studies, as reports have them: joined to images by a number of their table."""

import pytest

from tests.shards.releases.declared.own import opened, refused

STUDIES = """
name = "mine"
title = "Mine"
[[tables]]
as = "images"
file = ["t.csv"]
[[tables]]
as = "studies"
file = ["s.csv"]
[images]
image_id = "id"
path = "file"
study_id = "study"
subject_id = "patient"
[[labels]]
name = "mine"
table = "studies"
key = { here = "study", images = "study_id" }
kind = "list"
column = "findings"
findings = "all"
"""


def test_the_labels_of_a_study_number_that_two_patients_have_are_refused(tmp_path):
    images = "id,file,patient,study\na,1.png,A,1\nb,2.png,A,1\nc,3.png,B,1\nd,4.png,B,2"
    labels = "study,patient,findings\n1,A,Edema\n2,B,Mass"
    files = ("1.png", "2.png", "3.png", "4.png")
    said = refused(opened, tmp_path, STUDIES, files, t__csv=images, s__csv=labels)
    assert "s.csv: labels 'mine' are joined by study_id, and '1' is of two patients; make it of both" in said
    both = '{ template = "{patient}_{study}" }'
    declaration = STUDIES.replace('study_id = "study"', f"study_id = {both}").replace(
        'here = "study"', f"here = {both}"
    )
    (table,) = opened(tmp_path, declaration, files).labels
    assert table.table.drop(columns="split").T.to_dict("list") == {"a": [1, 0], "b": [1, 0], "d": [0, 1]}


@pytest.mark.parametrize("word", ["NaN", "None", "n/a"])
def test_a_word_for_a_missing_value_is_no_finding(tmp_path, word):
    images = "id,file,patient,study\na,1.png,A,1\nb,2.png,A,2"
    labels = f"study,findings\n1,Edema\n2,{word}"
    said = refused(opened, tmp_path, STUDIES, ("1.png", "2.png"), t__csv=images, s__csv=labels)
    assert f"s.csv: the finding {word!r} is not declared" in said and said.endswith("in line 3")
    (table,) = opened(tmp_path, STUDIES.replace('"all"\n', f'"all"\nunlabelled = ["{word}"]\n'), ("1.png",)).labels
    assert table.findings == ("Edema",) and table.table.index.tolist() == ["a"]
