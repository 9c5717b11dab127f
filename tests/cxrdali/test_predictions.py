import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.special import expit

from cxrdali.predictions import Kind, Predictions, Provenance, as_logits, check_target, read, sigmoid
from shards.errors import UserError


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
    assert back.provenance == table().provenance


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
        (lambda t: t.assign(image_id="007"), "image '007' is in more than one row"),
    ],
)
def test_bad_tables_are_named(tmp_path, change, message):
    path = tmp_path / "pred.parquet"
    frame = table().ids.assign(A=[1.0, 2.0])
    change(frame).to_parquet(path)
    with pytest.raises(UserError, match=message):
        read(path)


def test_no_file_and_no_table(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(UserError, match="not a table of predictions"):
        read(tmp_path / "text.parquet")


def test_targets_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(UserError, match="written as .parquet or .csv"):
        table().write(tmp_path / "pred.txt")
    with pytest.raises(UserError, match="no such folder; make it"):
        table().write(tmp_path / "missing" / "pred.csv")


def test_the_history_is_kept_and_what_a_file_does_not_say_is_not_known(tmp_path):
    path = tmp_path / "pred.parquet"
    known = Provenance("logit", "model3", "val", "chexpert", "x", "hflip", ("mean of a, b", "views"))
    replace(table(), provenance=known).write(path)
    assert read(path).provenance == known
    with_metadata(path, '{"kind": "logit", "run": "stage1", "split": "val", "labels": null, "dataset": "x"}')
    assert read(path).provenance == Provenance("logit", "stage1", "val", None, "x", None, ())


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("[]", "its metadata is damaged"),
        ('{"history": "once"}', "its metadata is damaged: history 'once'"),
        ('{"run": 3}', "its metadata is damaged: run 3"),
        ('{"kind": "odds"}', "its values are 'odds', not one of logit, probability, calibrated, rank"),
        ('{"calibrated": [3]}', r"its metadata is damaged: calibrated \[3\]"),
    ],
)
def test_damaged_metadata_is_named(tmp_path, stored, message):
    path = tmp_path / "pred.parquet"
    table().write(path)
    with_metadata(path, stored)
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("history", "kind", "calibrated"),
    [
        (["calibrated: platt, fitted on v"], Kind.CALIBRATED, ("calibrated: platt, fitted on v",)),
        (["mean rank among these 3 images of a, b: no probability, and of this set of images alone"], Kind.RANK, ()),
        (["mean rank among these 3 images of a", "calibrated: platt, fitted on v", "views"], Kind.CALIBRATED,
         ("calibrated: platt, fitted on v",)),
        (["a: calibrated: platt, fitted on v", "mean probability of a, b"], Kind.LOGIT, ()),
    ],
)  # fmt: skip
def test_what_an_older_file_holds_is_read_from_its_history(tmp_path, history, kind, calibrated):
    path = tmp_path / "pred.parquet"
    table().write(path)
    with_metadata(path, json.dumps({"kind": "logit", "history": history}))
    about = read(path).provenance
    assert (about.kind, about.calibrated, about.history) == (kind, calibrated, tuple(history))
    with_metadata(path, json.dumps({"kind": "logit", "history": history, "calibrated": []}))
    assert read(path).provenance.kind == Kind.LOGIT  # a file of today says what it holds itself


def test_a_text_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "pred.parquet"
    table().write(path)
    stored = pq.read_table(path)
    views = pa.array([b"\xff\xfe"] * len(stored), pa.binary()).cast(
        options=pc.CastOptions(pa.string(), allow_invalid_utf8=True)
    )
    pq.write_table(stored.set_column(stored.schema.get_field_index("view"), "view", views), path)
    with pytest.raises(UserError, match="not a table of predictions .*UTF8"):
        read(path)


def test_mean_ranks_do_not_become_probabilities(tmp_path):
    ranked = replace(table(), provenance=Provenance(Kind.RANK))
    ranked.write(tmp_path / "r.parquet")
    assert read(tmp_path / "r.parquet").provenance.kind is Kind.RANK
    with pytest.raises(UserError, match="mean ranks are no probabilities; write them as logits, or calibrate them"):
        ranked.as_probabilities()


def with_metadata(path, text):
    """The table as an older version wrote it, without a checksum."""
    arrow = pq.read_table(path)
    kept = {name: value for name, value in arrow.schema.metadata.items() if name != b"cxrdali.checksum"}
    pq.write_table(arrow.replace_schema_metadata({**kept, b"cxrdali": text}), path)


def test_only_logits_are_pooled(tmp_path):
    path = tmp_path / "p.csv"
    assert as_logits(table(), path) is not None
    with pytest.raises(UserError, match=r"p.csv: holds probabilities, which saturate; give the table of logits that"):
        as_logits(table().as_probabilities(), path)
    unsaid = replace(table(), provenance=Provenance())  # a CSV
    assert as_logits(unsaid, path).provenance.kind == "logit"
    assert (as_logits(unsaid, path).values == unsaid.values).all()
    with pytest.raises(UserError, match=r"p.csv: every value lies within 0..1, as in a table of probabilities"):
        as_logits(replace(unsaid, values=np.array([[0, 1], [0.5, 1e-9]], dtype=np.float32)), path)


def test_a_table_does_not_replace_what_it_is_made_from(tmp_path):
    path = tmp_path / "p.parquet"
    check_target(path, tmp_path / "other.parquet")
    with pytest.raises(UserError, match="is a table that this one is made from; give another --out"):
        check_target(tmp_path / ".." / tmp_path.name / "p.parquet", path)


def test_logits_that_differ_are_probabilities_that_differ():
    logits = np.array([17, 17.5, 18, 19.99, 20], dtype=np.float32)
    assert (np.diff(sigmoid(logits)) > 0).all() and not (np.diff(sigmoid(logits).astype(np.float32)) > 0).all()
    np.testing.assert_allclose(sigmoid(logits), expit(logits.astype(np.float64)), rtol=1e-15)
