from dataclasses import replace
from math import log

import numpy as np
import pandas as pd
import pytest

from cxrdali.ensemble import ensemble
from cxrdali.predictions import Predictions, Provenance, read
from shards.errors import DataError

KNOWN = Provenance("logit", "model3", "val", "cxr-lt-2023", "d1", "hflip")


def table(values, provenance=KNOWN, images=("1", "2", "3"), findings=("A", "B")):
    ids = pd.DataFrame({"image_id": images, "study_id": ["s" + image for image in images], "view": "frontal"})
    return Predictions(ids, findings, np.array(values, dtype=np.float32), provenance)


THREE, MINUS = log(3), -log(3)  # probabilities 0.75 and 0.25
ONE = table([[THREE, 0], [0, 2], [5, -5]])
TWO = table([[MINUS, 0], [0, 2], [-5, -5]], replace(KNOWN, run="model5"))


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path, content in zip(found, (ONE, TWO), strict=True):
        content.write(path)
    return found


def refused(paths, **options):
    with pytest.raises(DataError) as caught:
        ensemble(paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_worked_by_hand(paths):
    made = ensemble(paths)
    np.testing.assert_allclose(made.values, [[0, 0], [0, 2], [0, -5]], atol=1e-6)
    assert made.ids.equals(ONE.ids) and made.findings == ("A", "B") and made.values.dtype == np.float32
    assert made.provenance == Provenance(
        "logit", "ensemble of model3, model5", "val", "cxr-lt-2023", "d1", "hflip",
        ("mean probability of one.parquet, two.parquet",),
    )  # fmt: skip
    weighted = ensemble(paths, [3, 1])
    assert weighted.values[0, 0] == pytest.approx(log(0.625 / 0.375), rel=1e-6)
    assert weighted.provenance.history == ("mean probability of one.parquet, two.parquet by weights 3, 1",)


def test_rows_and_columns_may_stand_in_any_order(paths):
    in_order = ensemble(paths)
    shuffled = replace(TWO, ids=TWO.ids.iloc[[2, 0, 1]], findings=("B", "A"), values=TWO.values[[2, 0, 1]][:, ::-1])
    shuffled.write(paths[1])
    assert read(paths[1]).ids["image_id"].tolist() == ["3", "1", "2"]
    made = ensemble(paths)
    assert (made.values == in_order.values).all() and made.ids.equals(in_order.ids) and made.findings == ("A", "B")
    other_way = ensemble(paths[::-1])
    assert other_way.findings == ("B", "A") and other_way.ids["image_id"].tolist() == ["3", "1", "2"]
    assert (other_way.values == in_order.values[[2, 0, 1]][:, ::-1]).all()


def test_the_steps_before_are_kept(paths):
    replace(TWO, provenance=replace(TWO.provenance, history=("views",), tta="none")).write(paths[1])
    made = ensemble(paths).provenance
    assert made.history == ("two.parquet: views", "mean probability of one.parquet, two.parquet")
    assert made.tta is None


def test_a_csv_that_says_nothing_leaves_unknown_what_it_does_not_say(paths, tmp_path):
    csv = tmp_path / "two.csv"
    TWO.write(csv)
    made = ensemble([paths[0], csv]).provenance
    assert (made.run, made.split, made.dataset) == ("ensemble of model3, two.csv", None, None)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (table([[0, 0]] * 2, images=("1", "2")), "one.parquet: image '3' is not in {two}; give tables of the same"),
        (table([[0, 0]] * 6, images=tuple("123456")), "two.parquet: image '4' (and 2 more) is not in {one}"),
        (table([[0]] * 3, findings=("A",)), "one.parquet: finding 'B' is not in {two}"),
        (table([[0] * 4] * 3, findings=("A", "B", "C", "D")), "two.parquet: finding 'C' (and 1 more) is not in {one}"),
        (replace(TWO, ids=TWO.ids.assign(study_id=["s1", "x", "y"])),
         "two.parquet: study_id of image '2' (and 1 more) is 'x', in {one} 's2'; give tables of the same dataset"),
        (replace(TWO, ids=TWO.ids.assign(view=["frontal", "frontal", "lateral"])),
         "two.parquet: view of image '3' is 'lateral', in {one} 'frontal'"),
        (TWO.as_probabilities(), "two.parquet: holds probabilities, which saturate"),
        (replace(TWO, provenance=replace(KNOWN, split="dev")),
         "two.parquet: was predicted on split 'dev', {one} on 'val'; predict both on the same split"),
        (replace(TWO, provenance=replace(KNOWN, dataset="d2")), "was predicted on dataset 'd2', {one} on 'd1'"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_named(paths, second, message):
    second.write(paths[1])
    assert message.format(one=paths[0], two=paths[1]) in refused(paths)


def test_one_table_or_the_same_twice(paths, tmp_path):
    assert refused(paths[:1]) == "an ensemble of 1: give at least two tables of predictions"
    assert "one.parquet: is given twice; to count it more than the others, use --weights" in refused(
        [paths[0], paths[1], tmp_path / "." / "one.parquet"]
    )
    (tmp_path / "link.parquet").symlink_to(paths[0])
    assert "link.parquet: is given twice" in refused([paths[0], tmp_path / "link.parquet"])


def test_bad_tables_and_weights(paths):
    assert refused(paths, weights=[1]) == "weights [1]: give 2, one per table, each above 0"
    frame = ONE.ids.assign(A=[1.0, np.nan, 0], B=0.0)
    frame.to_parquet(paths[1])
    assert "two.parquet: finding 'A' is 'nan' for image '2', no number" in refused(paths)
    frame.assign(A=0.0, image_id="1").to_parquet(paths[1])
    assert "two.parquet: image '1' stands in more than one row" in refused(paths)
