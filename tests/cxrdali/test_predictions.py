import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from cxrdali.predictions import Predictions, Provenance, read
from shards.errors import DataError


def table(values=((0.5, -2.0), (3.0, 40.0))):
    ids = pd.DataFrame({"image_id": ["007", "1e5"], "study_id": ["01", "02"], "view": ["frontal", "other"]})
    return Predictions(
        ids, ("A", "B, C"), np.array(values, dtype=np.float32), Provenance("logit", "stage1", "val", "chexpert", "x")
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"pred{suffix}"
    table().write(path)
    back = read(path)
    assert back.ids.equals(table().ids)  # ids stay text: no 7, no 100000
    assert back.findings == ("A", "B, C") and back.values.dtype == np.float32
    np.testing.assert_allclose(back.values, table().values, rtol=1e-6)
    assert back.provenance == (table().provenance if suffix == ".parquet" else Provenance())


def test_probabilities_are_the_sigmoid_without_overflow():
    values = ((-1000.0, 1000.0), (0.0, -30.0))
    made = table(values).as_probabilities()
    np.testing.assert_allclose(made.values, expit(np.array(values)), rtol=1e-6)
    assert made.provenance.kind == "probability"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.drop(columns="view"), "column 'view' is missing"),
        (lambda t: t[["image_id", "study_id", "view"]], "no column of a finding"),
        (lambda t: t.assign(A=[1.0, np.nan]), "finding 'A' is 'nan' for image '1e5', no number"),
        (lambda t: t.assign(A=["1", "y"]), "finding 'A' is 'y' for image '1e5', no number"),
        (lambda t: t.assign(A=[1e40, 2]), "finding 'A' is '1e\\+40' for image '007'"),
        (lambda t: t[:0], "a header and no image"),
        (lambda t: t.assign(image_id="007"), "image '007' stands in more than one row"),
    ],
)
def test_bad_tables_are_named(tmp_path, change, message):
    path = tmp_path / "pred.parquet"
    frame = table().ids.assign(A=[1.0, 2.0])
    change(frame).to_parquet(path)
    with pytest.raises(DataError, match=message):
        read(path)


def test_no_file_and_no_table(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="not a table of predictions"):
        read(tmp_path / "text.parquet")


def test_targets_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(DataError, match="written as .parquet or .csv"):
        table().write(tmp_path / "pred.txt")
    with pytest.raises(DataError, match="no such folder; make it"):
        table().write(tmp_path / "missing" / "pred.csv")
