"""Submissions in the form of a challenge, from a run's own findings: with a template and without one."""

import csv
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxrdali.postprocess.forms import FORMS
from cxrdali.postprocess.submission import submit
from cxrdali.postprocess.template import template_of
from cxrdali.predictions import Predictions, Provenance
from shards.errors import UserError
from shards.synthetic.hospital import open_hospital
from tests.cli.cli import call
from tests.releases import write_table
from tests.shards.releases.test_cxrlt import FINDINGS_2023, FINDINGS_2024

IMAGES = ("b.png", "a.png", "c.png")
LEADING = "ImageID,StudyDate_DICOM,PatientID"


def predicted(path, form, more=("Extra",)):
    """Logits of all findings of a form in another order, and of more. Returns the values by finding."""
    findings = [*more, *FORMS[form].findings[::-1]]
    values = np.random.default_rng(0).normal(0, 2, (len(IMAGES), len(findings))).astype(np.float32)
    ids = pd.DataFrame({"image_id": IMAGES, "study_id": "s", "view": "frontal"})
    Predictions(ids, tuple(findings), values, Provenance("logit", "run", "dev")).write(path)
    return pd.DataFrame(expit(values.astype(np.float64)), columns=findings, index=IMAGES)


def rows(path, name):
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == [name]
        return list(csv.reader(io.StringIO(file.read(name).decode())))


def test_the_forms_are_those_that_were_published():
    assert FORMS["cxr-lt-2023"].header == ("dicom_id", *FINDINGS_2023)
    assert FORMS["cxr-lt-2024-task1"].header == ("dicom_id", *FINDINGS_2024)
    task2 = FORMS["cxr-lt-2024-task2"].findings
    assert len(task2) == 26 and set(task2) < set(FINDINGS_2024)
    assert task2.index("Normal") == task2.index("Nodule") - 1 and "No Finding" not in task2
    known = ("Normal", "aortic elongation", "pneumoperitoneo", "calcified densities")
    found = FORMS["cxr-lt-2026"]
    assert found.image == "ImageID" and len(set(found.findings)) == 30 and set(known) < set(found.findings)
    assert (found.findings[0], found.findings[-1]) == ("Normal", "calcified densities")


def test_the_synthetic_harbour_has_names_of_the_2026_form():
    names = open_hospital("harbour").findings
    assert set(names) < set(FORMS["cxr-lt-2026"].findings) and "Normal" in names and len(names) == 17


@pytest.mark.parametrize("form", FORMS)
def test_without_a_template_the_forms_columns_alone_are_written(form, tmp_path):
    known, asked = predicted(tmp_path / "p.parquet", form), FORMS[form]
    done = submit(tmp_path / "p.parquet", None, tmp_path / "out.zip", form=asked)
    name = "submission.csv" if form == "cxr-lt-2026" else "predictions.csv"
    found = rows(tmp_path / "out.zip", name)
    assert tuple(found[0]) == asked.header and [row[0] for row in found[1:]] == list(IMAGES)
    values = np.array([row[1:] for row in found[1:]], dtype=np.float64)
    np.testing.assert_allclose(values, known[list(asked.findings)], rtol=1e-14)
    assert (done.name, done.images, done.left_out, done.copied) == (name, 3, ("Extra",), ())


@pytest.mark.parametrize(
    "header", [f"{LEADING}{',' * 30}", LEADING, ",".join([LEADING, *FORMS["cxr-lt-2026"].findings]), "ImageID",
               ",".join([LEADING, *(f"Unnamed: {number}" for number in range(3, 33))])],
)  # fmt: skip
def test_the_public_list_gives_images_and_their_order(header, tmp_path):
    """30 columns without a name, none, saved again by pandas, or with their names."""
    known, columns = predicted(tmp_path / "p.parquet", "cxr-lt-2026"), header.count(",")
    dates = "," + ",".join(["20140915", "1.90E+38", *[""] * 30][:columns]) if columns else ""
    form = write_table(tmp_path / "t.csv", header, *(f"{image}{dates}" for image in sorted(IMAGES)))
    submit(tmp_path / "p.parquet", form, tmp_path / "out.zip", form=FORMS["cxr-lt-2026"])
    found = rows(tmp_path / "out.zip", "submission.csv")
    assert tuple(found[0]) == FORMS["cxr-lt-2026"].header and [row[0] for row in found[1:]] == sorted(IMAGES)
    expected = known.loc[sorted(IMAGES), list(FORMS["cxr-lt-2026"].findings)]
    np.testing.assert_allclose(np.array([row[1:] for row in found[1:]], dtype=float), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("dicom_id", "t.csv: its images are in column 'dicom_id', in form cxr-lt-2026 they are in 'ImageID'"),
        (f"{LEADING}{',' * 29}", "t.csv: 29 columns of findings, form cxr-lt-2026 has 30; give the template of this"),
        (f"{LEADING},normal{',' * 29}", "t.csv: finding 1 is 'normal', of form cxr-lt-2026 it is 'Normal'; give"),
        (",".join(["ImageID", *FORMS["cxr-lt-2026"].findings[::-1]]), "finding 1 is 'calcified densities', of form"),
        (",".join(["ImageID", *FORMS["cxr-lt-2026"].findings, "goiter"]), "t.csv: 31 columns of findings, form"),
    ],
)
def test_a_template_of_another_form_is_one_line(header, message, tmp_path):
    predicted(tmp_path / "p.parquet", "cxr-lt-2026")
    form = write_table(tmp_path / "t.csv", header, *(image + "," * header.count(",") for image in IMAGES))
    with pytest.raises(UserError) as error:
        submit(tmp_path / "p.parquet", form, tmp_path / "out.zip", form=FORMS["cxr-lt-2026"])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out.zip").exists()


def test_a_run_without_a_finding_of_the_form_is_one_line(tmp_path):
    predicted(tmp_path / "p.parquet", "cxr-lt-2023")
    with pytest.raises(UserError) as error:
        submit(tmp_path / "p.parquet", None, tmp_path / "out.zip", form=FORMS["cxr-lt-2024-task2"])
    assert str(error.value) == (
        f"{tmp_path / 'p.parquet'}: form cxr-lt-2024-task2 asks for 'Normal' of its 26 findings, which the predictions "
        "do not have; predict with a model of all of them, trained on this challenge's labels"
    )
    with pytest.raises(UserError, match=r"'Adenopathy' \(and 14 more\) of its 40 findings"):
        submit(tmp_path / "p.parquet", None, tmp_path / "out.zip", form=FORMS["cxr-lt-2024-task1"])
    with pytest.raises(UserError, match="neither a template nor a form says what the challenge asks for"):
        submit(tmp_path / "p.parquet", None, tmp_path / "out.zip")


def test_images_that_the_template_has_and_the_predictions_lack_are_named(tmp_path):
    predicted(tmp_path / "p.parquet", "cxr-lt-2026")
    form = write_table(tmp_path / "t.csv", "ImageID", *IMAGES, "d.png")
    with pytest.raises(UserError, match="image 'd.png' of .*t.csv is not in the predictions"):
        submit(tmp_path / "p.parquet", form, tmp_path / "out.zip", form=FORMS["cxr-lt-2026"])


def test_a_form_of_the_labels_own_has_the_challenges_column_of_images(dataset):
    labels = dataset.labels("cxr-lt-2023")
    assert template_of(dataset, labels, "test").startswith(b"dicom_id,Edema,")
    object.__setattr__(labels, "name", "cxr-lt-2026")
    assert template_of(dataset, labels, "test").startswith(b"ImageID,Edema,")


def test_the_command_asks_for_one_of_them_and_says_what_it_wrote(tmp_path):
    predicted(tmp_path / "p.parquet", "cxr-lt-2026")
    done = call("submit", "p.parquet", "--out", "out.zip", cwd=tmp_path)
    assert done.returncode == 2 and "give --form, of a challenge that is known, or --template" in done.stderr
    done = call("submit", "p.parquet", "--form", "cxr-lt-2026", "--out", "out.zip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "out.zip: submission.csv with 3 images and 30 findings, form cxr-lt-2026" in done.stdout
    assert "predicted, but not asked for: Extra" in done.stdout
    done = call("submit", "p.parquet", "--form", "2026", "--out", "out.zip", cwd=tmp_path)
    assert done.returncode == 2 and "cxr-lt-2026" in done.stderr
