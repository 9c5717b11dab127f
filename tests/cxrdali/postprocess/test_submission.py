import csv
import io
import os
import zipfile

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score

from cxrdali.postprocess.submission import submit, verify
from cxrdali.postprocess.template import read_template, template_of
from cxrdali.predictions import Predictions, Provenance
from shards.errors import UserError
from shards.storage.sidecar import beside
from tests.releases import FINDINGS, write_table

LOGITS = Provenance("logit", "ensemble", "test")
PROBABILITIES = Provenance("probability")


def write(path, values, images=("x1", "x2", "x3"), findings=("Edema", "Mass"), provenance=LOGITS):
    ids = pd.DataFrame({"image_id": images, "study_id": "s", "view": "frontal"})
    Predictions(ids, findings, np.array(values, dtype=np.float32), provenance).write(path)
    if path.suffix == ".csv":  # as one of another program, which says nothing of itself
        beside(path).unlink()
    return path


@pytest.fixture
def table(tmp_path):
    """Image k has logits k and -k."""
    return write(tmp_path / "p.parquet", [[1, -1], [2, -2], [3, -3]])


def inside(path, name="predictions.csv"):
    with zipfile.ZipFile(path) as file:
        return file.read(name)


def rows(path, name="predictions.csv"):
    return list(csv.reader(io.StringIO(inside(path, name).decode())))


def refused(*arguments, **options):
    with pytest.raises(UserError) as caught:
        submit(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_header_and_rows_are_the_template_s(table, tmp_path):
    form = write_table(tmp_path / "t.csv", "dicom_id,Mass,Edema", "x3,,", "x1,0.5,0.5", "x2,0,0")
    done = submit(table, form, tmp_path / "out.zip")
    found = rows(tmp_path / "out.zip")
    assert found[0] == ["dicom_id", "Mass", "Edema"] and [row[0] for row in found[1:]] == ["x3", "x1", "x2"]
    values = np.array([row[1:] for row in found[1:]], dtype=np.float64)
    np.testing.assert_allclose(values, expit([[-3, 3], [-1, 1], [-2, 2]]), rtol=1e-14)
    assert (done.images, done.findings, done.left_out, done.copied) == (3, ("Mass", "Edema"), (), ())


def test_a_template_with_bom_quotes_other_columns_and_fewer_findings(table, tmp_path):
    form = tmp_path / "t.csv"
    form.write_bytes(
        b'\xef\xbb\xbf"ImageID","StudyDate_DICOM","PatientID"," Mass","path"\r\n'
        b'"x2","20150203","1.90E+38",,"files/a, b.jpg"\r\n"x1","20150204","",,""\r\n"x3","","007",,""\r\n'
    )
    done = submit(write(table, [[0, 0]] * 3), form, tmp_path / "out.zip")
    assert inside(tmp_path / "out.zip").decode() == (
        "ImageID,StudyDate_DICOM,PatientID, Mass,path\n"
        'x2,20150203,1.90E+38,0.5,"files/a, b.jpg"\nx1,20150204,,0.5,\nx3,,007,0.5,\n'
    )
    assert done.copied == ("StudyDate_DICOM", "PatientID", "path")
    assert (done.findings, done.left_out) == (("Mass",), ("Edema",))


def test_ids_with_folder_or_suffix(tmp_path):
    table = write(tmp_path / "p.parquet", [[1, 0], [2, 0], [3, 0], [4, 0]], ("a.b", "x.jpg", "files/z", "w"))
    form = write_table(tmp_path / "t.csv", "fpath,Edema", "files/p1/s1/w.PNG,", "files/z,", "a.b,", "s/x.jpg,")
    submit(table, form, tmp_path / "out.zip")
    found = rows(tmp_path / "out.zip")[1:]
    assert [row[0] for row in found] == ["files/p1/s1/w.PNG", "files/z", "a.b", "s/x.jpg"]  # as the template has them
    np.testing.assert_allclose([float(row[1]) for row in found], expit([4, 3, 1, 2]), rtol=1e-14)


@pytest.mark.parametrize(
    ("images", "ids", "message"),
    [
        (("x", "x.jpg"), ("files/x.jpg", "x"), "{form}: 'files/x.jpg' may be image 'x.jpg' or 'x'; write the image's"),
        (("x", "y"), ("x.jpg", "x.png"), "{form}: 'x.jpg' and 'x.png' are both image 'x'; remove one of them"),
        (("x", "y"), ("x", "x"), "{form}: image 'x' is in more than one row; remove the doubled row"),
        (("x", "y"), ("x", "y", "q.jpg", "r"), "{table}: image 'q.jpg' (and 1 more) of {form} is not in the"),
        (("x", "y", "z"), ("x",), "{table}: image 'y' (and 1 more) is not in {form}; predict the template's split"),
        (("x", "y"), ("x", ""), "image '' of {form} is not in the predictions"),
    ],
)  # fmt: skip
def test_ids_that_do_not_fit_are_named(tmp_path, images, ids, message):
    table = write(tmp_path / "p.parquet", [[0, 0]] * len(images), images)
    form = write_table(tmp_path / "t.csv", "dicom_id,Edema", *(f"{text}," for text in ids))
    assert message.format(form=form, table=table) in refused(table, form, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["dicom_id,Edema,Hernia,Nodule", "x1,,,"],
         "p.parquet: {form} asks for 'Hernia' (and 1 more), which the predictions do not have; predict with a model"),
        (["dicom_id,Edema,Edema", "x1,,"], "{form}: column 'Edema' is duplicated; rename or remove one of them"),
        (["ImageID,StudyDate_DICOM,PatientID,,,", "x1,,,,,"], "{form}: 3 column(s) without a name; write the"),
        (["dicom_id,study_id", "x1,s1"], "{form}: no column of a finding after 'dicom_id'"),
        (["dicom_id,Edema"], "{form}: a header and no image; give the challenge's template"),
        (["dicom_id,Edema", "x1"], "{form}: not a CSV table"),
        ([], "{form}: not a CSV table (empty, not even a header)"),
    ],
)  # fmt: skip
def test_templates_that_do_not_fit_are_named(table, tmp_path, lines, message):
    form = write_table(tmp_path / "t.csv", *lines)
    assert message.format(form=form) in refused(table, form, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize("change", [lambda text: text.replace(",", ";"), lambda text: text.encode("utf-16")])
def test_a_template_in_another_spelling_is_refused_as_it_would_be_written_in_commas(table, tmp_path, change):
    changed = change("dicom_id,Edema\nx1,\nx2,\nx3,\n")
    (tmp_path / "form.csv").write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(UserError, match="form.csv: no CSV with commas in UTF-8, as a submission is"):
        read_template(tmp_path / "form.csv")


def test_no_template_and_no_place(table, tmp_path):
    form = write_table(tmp_path / "t.csv", "dicom_id,Edema", "x1,", "x2,", "x3,")
    assert "none.csv: no such file" in refused(table, tmp_path / "none.csv", tmp_path / "out.zip")
    assert "out.csv: a submission is a .zip; change the file's suffix" in refused(table, form, tmp_path / "out.csv")
    assert "absent: no such folder; make it" in refused(table, form, tmp_path / "absent" / "out.zip")
    for name in ("", "..", "a/b.csv", "code"):
        assert f"name {name!r}: give a plain file name" in refused(table, form, tmp_path / "out.zip", name=name)


# ------------------------------------------------------------ values


def test_values_lose_nothing(tmp_path):
    """AP of the file is AP of the logits, also where float32 probabilities are ties; -1000 and 1000 are 0 and 1."""
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.3
    values = (16 + truth + rng.normal(0, 1, 300)).astype(np.float32)
    images = [f"i{number}" for number in range(302)]
    column = np.concatenate([values, [-1000, 1000]])[:, None]
    table = write(tmp_path / "p.parquet", column, images, ("Edema",))
    form = write_table(tmp_path / "t.csv", "dicom_id,Edema", *(f"{image}," for image in images))
    submit(table, form, tmp_path / "out.zip")
    found = np.array([float(row[1]) for row in rows(tmp_path / "out.zip")[1:]])
    assert found[300] == 0 and found[301] == 1
    assert average_precision_score(truth, found[:300]) == average_precision_score(truth, values)
    assert average_precision_score(truth, found[:300].astype(np.float32)) != average_precision_score(truth, values)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_probabilities_stay_as_they_are(tmp_path, suffix):
    values = np.array([0, 1e-45, 1e-7, 0.1, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 1], dtype=np.float32)
    images = list("abcdefg")
    table = write(tmp_path / f"p.{suffix}", values[:, None], images, ("Edema",), PROBABILITIES)
    form = write_table(tmp_path / "t.csv", "dicom_id,Edema", *(f"{image}," for image in images))
    submit(table, form, tmp_path / "out.zip")
    found = np.array([row[1] for row in rows(tmp_path / "out.zip")[1:]], dtype=np.float32)
    assert (found == values).all()


@pytest.mark.parametrize(
    ("name", "values", "provenance", "message"),
    [
        ("p.csv", [0.5, 2.5], LOGITS, "finding 'Edema' is 2.5 for image 'x2', no probability of 0..1; a CSV does not "
         "say whether it holds logits, so give the .parquet that `cxrdali predict` writes"),
        ("p.parquet", [0.5, -0.1], PROBABILITIES, "is -0.1 for image 'x2', no probability of 0..1; predict again"),
        ("p.parquet", [0.5, 1.01], PROBABILITIES, "is 1.01 for image 'x2', no probability"),
        ("p.parquet", [0.5, np.nan], PROBABILITIES, "finding 'Edema' is 'nan' for image 'x2', no number"),
        ("p.parquet", [0.5, np.nan], LOGITS, "finding 'Edema' is 'nan' for image 'x2', no number"),
    ],
)  # fmt: skip
def test_values_that_are_no_probabilities_are_named(tmp_path, name, values, provenance, message):
    table = write(tmp_path / name, np.array(values)[:, None], ("x1", "x2"), ("Edema",), provenance)
    form = write_table(tmp_path / "t.csv", "dicom_id,Edema", "x1,", "x2,")
    assert message in refused(table, form, tmp_path / "out.zip")


# ------------------------------------------------------------ the zip


@pytest.fixture
def form(tmp_path):
    return write_table(tmp_path / "t.csv", "dicom_id,Edema,Mass", "x1,,", "x2,,", "x3,,")


def test_code_goes_in_sorted_and_the_bytes_depend_on_nothing_else(table, form, tmp_path):
    code = tmp_path / "code"
    for name in ("z.py", "pkg/a.py", "pkg/__pycache__/a.pyc", "b.pyc", ".git/config", ".hidden", "pkg/e.txt"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(name)
    (code / "none").mkdir()
    done = submit(table, form, tmp_path / "one.zip", code, "dev.csv")
    assert done.code == ("code/.hidden", "code/pkg/a.py", "code/pkg/e.txt", "code/z.py")
    assert done.skipped == (".git", "b.pyc", "pkg/__pycache__")
    with zipfile.ZipFile(tmp_path / "one.zip") as file:
        assert file.namelist() == ["dev.csv", *done.code] and file.read("code/pkg/a.py") == b"pkg/a.py"
    os.utime(code / "z.py", (0, 0))
    (code / "z.py").chmod(0o700)
    submit(table, form, tmp_path / "two.zip", code, "dev.csv")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_code_that_cannot_go_in_is_named(table, form, tmp_path):
    code, out = tmp_path / "code", tmp_path / "out.zip"
    assert "code: no such folder; --code is the folder whose" in refused(table, form, out, code)
    code.mkdir()
    assert "code: no file to put into the zip" in refused(table, form, out, code)
    (code / "a.py").write_text("")
    assert "out.zip: lies in " in refused(table, form, code / "out.zip", code)
    for target in (form, tmp_path, "a.py", "nowhere"):
        (code / "link").symlink_to(target)
        assert "code/link: is a link; put the file itself there" in refused(table, form, out, code)
        (code / "link").unlink()
    os.mkfifo(code / "pipe")
    assert "code/pipe: is neither a file nor a folder" in refused(table, form, out, code)
    assert not out.exists()


def test_what_was_written_is_read_back_and_compared(table, form, tmp_path):
    out = tmp_path / "out.zip"
    submit(table, form, out)
    values = expit([[1.0, -1], [2, -2], [3, -3]])
    text = inside(out).decode()
    expected = np.array([row[1:] for row in rows(out)[1:]], dtype=np.float64)
    np.testing.assert_allclose(expected, values, rtol=1e-14)

    def message(change, name="predictions.csv", code=()):
        with zipfile.ZipFile(out, "w") as file:
            file.writestr(name, change(text))
        with pytest.raises(UserError) as caught:
            verify(out, "predictions.csv", read_template(form), expected, code)
        return str(caught.value)

    number = text.splitlines()[2].split(",")[1]
    assert "the row of 'x2' holds other values" in message(lambda t: t.replace(number, "0.8807"))
    assert "the row of 'x2' holds other values" in message(lambda t: t.replace(number, "nan"))
    assert "the row of 'x2' holds what is no number" in message(lambda t: t.replace(number, ""))
    assert "the row of 'x2' is cut" in message(lambda t: t.replace(f",{number}", ""))
    assert "its header or its images are not the template's" in message(lambda t: t.replace("Mass", "Mas"))
    assert "its header or its images" in message(lambda t: t.replace("x2", "x9"))
    assert "its header or its images" in message(lambda t: t[: t.index("x3")])
    assert "does not hold the files that were put in" in message(lambda t: t, name="other.csv")
    assert "does not hold the files that were put in" in message(lambda t: t, code=("code/a.py",))
    submit(table, form, out)
    data = bytearray(out.read_bytes())
    data[60] ^= 255
    out.write_bytes(data)
    with pytest.raises(UserError, match="check the disk and submit again"):
        verify(out, "predictions.csv", read_template(form), expected)


def test_submitting_reads_back_what_is_on_the_disk(table, form, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrdali.postprocess.submission.write_bytes", lambda path, data: path.write_bytes(data[:-40]))
    assert "out.zip: cannot be read back (File is not a zip file)" in refused(table, form, tmp_path / "out.zip")


# ------------------------------------------------------------ a template of our own


def test_a_template_from_the_labels_takes_what_is_predicted(dataset, tmp_path):
    labels = dataset.labels("cxr-lt-2023")
    form = tmp_path / "t.csv"
    form.write_bytes(template_of(dataset, labels, "test"))
    chosen = dataset.catalog[(labels.split == "test") & dataset.packed]
    lines = form.read_text().splitlines()
    assert lines[0] == "dicom_id," + ",".join(FINDINGS)
    assert lines[1:] == [f"{image},,,,," for image in chosen["image_id"]]
    values = np.random.default_rng(0).normal(size=(len(chosen), 5)).astype(np.float32)
    table = write(tmp_path / "p.parquet", values, chosen["image_id"], FINDINGS)
    submit(table, form, tmp_path / "out.zip")
    found = np.array([row[1:] for row in rows(tmp_path / "out.zip")[1:]], dtype=np.float64)
    np.testing.assert_allclose(found, expit(values.astype(np.float64)), rtol=1e-14)
    with pytest.raises(UserError, match="have no packed image in split 'none'"):
        template_of(dataset, labels, "none")
